"""Rules and dashboard name metrics that there are, Prometheus takes them, and alerts fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from tests.http.bank_server import open_bank
from tests.sample_domains.counter_app_helpers import until
from tests.servers.fixtures import do_without
from tests.servers.server import LOOPBACK, Server, hand_over, listening, wait_until
from tests.telemetry.otlp_receiver import receiving
from tests.telemetry.test_export import process
from tests.telemetry.traced_bank import traced_bank
from twofold import App
from twofold.cli.dashboard_command import command as dashboard
from twofold.http import asgi
from twofold.telemetry.alerts import alert_rules
from twofold.telemetry.instruments import Family

DASHBOARD = json.loads(CliRunner().invoke(dashboard).output)


def rules_of(app: App, job: str = "shop") -> list[dict[str, Any]]:
    (group,) = json.loads(alert_rules(app.wiring, app.settings.stall_seconds, job))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> list[str]:
    """Every expression of the rules and of the dashboard."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in rules_of(open_bank(freshness=2.0))), *shown]


async def families(tmp_path: Path) -> dict[str, Family]:
    app = open_bank(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/views.db", freshness=2.0)
    asgi(app)
    async with app:
        return {family.name: family for family in await app.metrics()}


def series_of(family: Family) -> set[str]:
    return (
        {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        if family.kind == "histogram"
        else {family.name}
    )


async def test_every_metric_in_the_rules_and_the_dashboard_is_one_that_an_app_has(tmp_path: Path) -> None:
    known = {name for family in (await families(tmp_path)).values() for name in series_of(family)}
    used = {name for text in expressions() for name in re.findall(r"\btwofold_\w+", text)}
    assert used and used - known == set()
    assert re.findall(r"\btwofold_\w+", DASHBOARD["templating"]["list"][1]["query"])[0] in known


async def test_every_label_in_the_rules_and_the_dashboard_is_one_of_the_metric(tmp_path: Path) -> None:
    known = {name: family for family in (await families(tmp_path)).values() for name in series_of(family)}
    for text in expressions():
        for name, matchers in re.findall(r"\b(twofold_\w+)\{([^}]*)\}", text):
            labels = set(re.findall(r"(\w+)=", matchers)) - {"job"}
            assert labels <= set(known[name].labels), text


async def test_every_metric_is_on_the_dashboard_but_those_of_partitions_and_details(tmp_path: Path) -> None:
    used = " ".join(expressions())
    left_out = {name for name in await families(tmp_path) if name not in used}
    assert {name for name in left_out if not name.startswith(("twofold_partition", "twofold_build"))} == {
        "twofold_follower_position",
        "twofold_reservations_total",
        "twofold_snapshots_total",
        "twofold_uptime_seconds",
        "twofold_verify_rounds_total",
    }


def test_each_follower_has_a_rule_of_its_own_with_its_objective() -> None:
    rules = {rule["alert"]: rule["expr"] for rule in rules_of(open_bank(freshness=2.0))}
    missed = 'twofold_follower_lag_seconds{job="shop",name="balances",kind="projection"} > 2'
    assert rules["TwofoldFreshnessMissed"] == missed
    behind = 'twofold_follower_lag_seconds{job="shop",name="advisor",kind="policy"} > 30'
    assert rules["TwofoldFollowerBehind"] == behind
    without = [rule["alert"] for rule in rules_of(traced_bank())]
    assert "TwofoldFreshnessMissed" not in without and without.count("TwofoldFollowerBehind") == 2


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    app = open_bank(freshness=0.5)
    path = tmp_path / "rules.json"
    path.write_bytes(alert_rules(app.wiring, app.settings.stall_seconds, "shop"))
    return path


def program(name: str) -> str:
    return shutil.which(name) or do_without(f"no {name}: `apt-get install prometheus`")


def test_promtool_takes_the_rules(rule_file: Path) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", rule_file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules_of(open_bank(freshness=0.5)))} rules found" in done.stdout


SERIES: dict[str, dict[str, str]] = {
    "TwofoldProcessDown": {'up{job="shop"}': "0x30"},
    "TwofoldNotReady": {'twofold_health_level{job="shop",side="query"}': "0x30"},
    "TwofoldDegraded": {'twofold_health_level{job="shop",side="query"}': "1x30"},
    "TwofoldLogDamaged": {'twofold_damages{job="shop"}': "1x30"},
    "TwofoldCommandsFail": {'twofold_commands_total{job="shop",command="deposit",outcome="failed"}': "0+1x30"},
    "TwofoldCommandsUnavailable": {
        'twofold_commands_total{job="shop",command="deposit",outcome="unavailable"}': "0+2x30",
        'twofold_commands_total{job="shop",command="deposit",outcome="written"}': "0+100x30",
    },
    "TwofoldCommitsSlow": {
        'twofold_append_seconds_bucket{job="shop",le="1.0"}': "0+90x30",
        'twofold_append_seconds_bucket{job="shop",le="2.5"}': "0+100x30",
        'twofold_append_seconds_bucket{job="shop",le="+Inf"}': "0+100x30",
    },
    "TwofoldFollowerStalled": {'twofold_follower_stalled_seconds{job="shop",name="balances"}': "6x30"},
    "TwofoldKeysParked": {'twofold_follower_parked_keys{job="shop",name="balances"}': "1x30"},
    "TwofoldFollowerPaused": {'twofold_follower_paused{job="shop",name="balances"}': "1x30"},
    "TwofoldPolicyOutage": {'twofold_follower_outage{job="shop",name="advisor"}': "1x30"},
    "TwofoldFreshnessMissed": {'twofold_follower_lag_seconds{job="shop",name="balances",kind="projection"}': "0.6x30"},
    "TwofoldFollowerBehind": {'twofold_follower_lag_seconds{job="shop",name="advisor",kind="policy"}': "31x30"},
}


def test_every_alert_fires_by_the_series_that_it_is_about_and_no_other(rule_file: Path, tmp_path: Path) -> None:
    assert {rule["alert"] for rule in rules_of(open_bank(freshness=0.5))} == SERIES.keys()
    tests = [
        {
            "interval": "1m",
            "name": alert,
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": 'sum by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "25m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}],
                }
            ],
        }
        for alert, series in SERIES.items()
    ]
    path = tmp_path / "tests.json"
    path.write_text(json.dumps({"rule_files": [str(rule_file)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([program("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus(Server):
    """A Prometheus that scrapes one address, and evaluates the rules of a file, several times a second."""

    name = "prometheus"

    def __init__(self, target: str, rules: Path) -> None:
        super().__init__()
        self._program = program("prometheus")
        own = self.folder / "rules.json"
        own.write_bytes(rules.read_bytes())
        hand_over(own)
        scrape = {"job_name": "shop", "static_configs": [{"targets": [target]}]}
        every = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
        settings = {"global": every, "rule_files": [str(own)], "scrape_configs": [scrape]}
        self.settings = self.folder / "prometheus.yml"
        self.settings.write_text(json.dumps(settings))
        hand_over(self.settings)

    def start(self) -> None:
        data, address = self.folder / "data", f"{LOOPBACK}:{self.port}"
        options = [f"--config.file={self.settings}", f"--storage.tsdb.path={data}", f"--web.listen-address={address}"]
        process = self._spawn(self._program, *options)
        wait_until(lambda: process.poll() is not None or listening(self.port), "Prometheus to start")


async def test_a_real_prometheus_reads_all_metrics_and_every_expression_of_the_dashboard(
    rule_file: Path, tmp_path: Path
) -> None:
    program("prometheus")
    stores = ("--write-store", f"sqlite:///{tmp_path}/log.db", "--read-store", f"sqlite:///{tmp_path}/views.db")
    with receiving() as received:
        async with process(tmp_path, received, *stores) as url, httpx.AsyncClient(timeout=60) as http:
            await http.post(f"{url}/commands/deposit", json={"account_id": "eve", "cents": 5})
            with Prometheus(url.removeprefix("http://"), rule_file) as prometheus:
                api = f"http://{LOOPBACK}:{prometheus.port}/api/v1"

                async def is_ready() -> bool:
                    return (await http.get(f"http://{LOOPBACK}:{prometheus.port}/-/ready")).status_code == 200

                await until(is_ready, "Prometheus to be ready")

                async def value_of(expression: str) -> list[Any]:
                    answer = await http.get(f"{api}/query", params={"query": expression})
                    assert answer.status_code == 200, f"{expression}: {answer.text}"
                    found: list[Any] = answer.json()["data"]["result"]
                    return found

                async def is_scraped() -> bool:
                    found = await value_of('twofold_commands_total{job="shop",command="deposit",outcome="written"}')
                    return [each["value"][1] for each in found] == ["1"]

                await until(is_scraped, "the first scrape")
                for text in expressions():
                    await value_of(text.replace("$job", "shop").replace("$__rate_interval", "1m"))
                rules = (await http.get(f"{api}/rules")).json()["data"]["groups"][0]["rules"]
                assert [rule.get("lastError", "") for rule in rules if rule.get("lastError")] == []
                assert len(rules) == len(rules_of(open_bank(freshness=0.5)))


def test_the_dashboard_can_be_provisioned() -> None:
    assert DASHBOARD["uid"] and DASHBOARD["title"] and "id" not in DASHBOARD
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${source}"}
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["source", "job"]
