"""The files under `deploy/`: valid by their schemas, safe, and with the commands and ports that the tests run."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import click
import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.cli.command_line_helpers import running
from tests.end_to_end.service_helpers import Service
from tests.http.bank_server import open_bank
from twofold.http import Limits, asgi
from twofold.http.openapi import describe
from twofold.roles import Roles
from twofold.settings import Settings
from twofold.settings_sources import SERVER_VARIABLES

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.33"
ROLES = ("command", "query", "sync", "console")
GRACE = int(Limits().body_seconds + Limits().request_seconds) + 1
"""Seconds that a request in progress gets when a process stops."""


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for _, each in documents() if each["kind"] == kind}


def workloads() -> dict[str, dict[str, Any]]:
    """The pods of each role, and of the migration."""
    found = of_kind("Deployment") | of_kind("Job")
    return {name.removeprefix("shop-"): each["spec"]["template"]["spec"] for name, each in found.items()}


def arguments() -> Iterator[tuple[str, list[str]]]:
    """What each container runs, by its place."""
    for name, service in compose()["services"].items():
        if service["image"] == "twofold-shop":
            yield f"compose {name}", service["command"]
    for name, pod in workloads().items():
        yield f"kubernetes {name}", pod["containers"][0]["args"]


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    yield "compose", compose()["services"]["command"]["environment"]
    config, secret = of_kind("ConfigMap")["shop"]["data"], of_kind("Secret")["shop-stores"]["stringData"]
    yield "kubernetes", config | secret


# -------------------------------------------------------------------------------------------------------------- schemas


def test_the_compose_file_is_valid_by_the_schema_of_compose() -> None:
    schema = json.loads(
        (resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text()
    )
    jsonschema.validate(compose(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**compose(), "servces": {}}, schema)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_each_manifest_is_valid_by_the_schema_of_kubernetes(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_of_a_manifest_is_noticed() -> None:
    deployment = of_kind("Deployment")["shop-query"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


# ------------------------------------------------------------------------------------------------ commands and ports


def test_there_is_a_service_for_each_role_and_it_runs_what_the_tests_run(tmp_path: Path) -> None:
    expected = {f"{place} {role}": Service(role, tmp_path) for place in ("compose", "kubernetes") for role in ROLES}
    found = {place: given for place, given in arguments() if "migrate" not in place}
    assert found.keys() == expected.keys()
    for place, service in expected.items():
        run = service.command[1:]
        run[run.index("--port") + 1] = "8000"
        assert [*found[place], "--json"] == run, place
        assert str(Roles(service.roles)) == service.roles


def test_each_command_is_one_of_the_command_line() -> None:
    for place, (name, *options) in arguments():
        command: click.Command = import_module(f"twofold.cli.{name}_command").command
        command.make_context(f"{place}: {name}", list(options))


def test_each_variable_is_a_setting_or_an_option() -> None:
    known = {f"TWOFOLD_{name.upper()}" for name in (*Settings.__struct_fields__, *SERVER_VARIABLES)}
    for place, variables in environments():
        named = {name for name in variables if name.startswith("TWOFOLD_")}
        assert named <= known, place
        assert {"TWOFOLD_WRITE_STORE", "TWOFOLD_READ_STORE", "TWOFOLD_HOST", "TWOFOLD_ALLOW_HOST"} <= named, place


def test_all_ports_are_the_one_that_the_processes_listen_on() -> None:
    gateway = (DEPLOY / "nginx.conf").read_text()
    assert set(re.findall(r"server (\w+:\d+)", gateway)) == {f"{role}:8000" for role in ROLES if role != "sync"}
    (listens,) = re.findall(r"listen (\d+);", gateway)
    services = compose()["services"]
    assert services["gateway"]["ports"] == [f"127.0.0.1:{listens}:{listens}"]
    for role in ROLES:
        assert services[role]["expose"] == ["8000"]
        (port,) = workloads()[role]["containers"][0]["ports"]
        assert (port["name"], port["containerPort"]) == ("http", 8000)
        (offered,) = of_kind("Service")[f"shop-{role}"]["spec"]["ports"]
        assert offered["targetPort"] == "http"
    assert "EXPOSE 8000" in (DEPLOY / "Dockerfile").read_text()


def test_the_gateways_send_each_path_to_the_role_that_serves_it() -> None:
    words = {path.split("/")[1] for path in describe(open_bank(), Limits())["paths"]}
    (rule,) = of_kind("Ingress")["shop"]["spec"]["rules"]
    routed = {each["path"].strip("/"): each["backend"]["service"]["name"] for each in rule["http"]["paths"]}
    assert routed == {"commands": "shop-command", "queries": "shop-query"}
    assert routed.keys() <= words
    assert set(routed.values()) <= of_kind("Service").keys()


# ------------------------------------------------------------------------------------------------------ limits, safety


def test_processes_stop_in_order_before_they_are_killed() -> None:
    services = compose()["services"]
    for role in ROLES:
        assert int(services[role]["stop_grace_period"].removesuffix("s")) > GRACE
        pod = workloads()[role]
        notice = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] > GRACE + notice


def test_no_container_is_root_or_writes_its_own_files_and_each_has_limits() -> None:
    services = compose()["services"]
    for role in ROLES:
        assert services[role]["read_only"] and services[role]["cap_drop"] == ["ALL"]
        assert services[role]["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    for name, pod in workloads().items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert not container["securityContext"]["allowPrivilegeEscalation"], name
        assert container["resources"]["limits"].keys() == {"cpu", "memory"}, name
    *_, last = re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    assert re.search(r"^USER 10001:10001$", last, re.M)
    assert shlex.split(re.findall(r"^CMD (.*)$", last, re.M)[0].strip("[]").replace(",", " "))[:2] == [
        "serve",
        "shop:app",
    ]


async def test_the_query_role_scales_by_metrics_that_there_are() -> None:
    rules = yaml.safe_load((DEPLOY / "adapter-rules.yaml").read_text())["rules"]["custom"]
    metrics = of_kind("HorizontalPodAutoscaler")["shop-query"]["spec"]["metrics"]
    wanted = {each["pods"]["metric"]["name"] for each in metrics if each["type"] == "Pods"}
    assert wanted == {rule["name"]["as"] for rule in rules}
    async with (
        open_bank() as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(asgi(app)), base_url="http://testserver") as client,
    ):
        (await client.get("/queries/balance-of?account_id=ann")).raise_for_status()
        text = (await client.get("/metrics")).text
    for rule in rules:
        series, _, labels = rule["seriesQuery"].rstrip("}").partition("{")
        ours = [label for label in labels.split(",") if not label.startswith(("namespace", "pod"))]
        lines = [line for line in text.splitlines() if line.startswith(f"{series}{{")]
        assert any(all(label in line for label in ours) for line in lines), series


@pytest.mark.parametrize("role", ROLES)
def test_the_probes_of_each_role_are_answered_by_a_process_with_its_command_and_variables(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in of_kind("ConfigMap")["shop"]["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TWOFOLD_WRITE_STORE", f"sqlite:///{tmp_path}/log.db")
    monkeypatch.setenv("TWOFOLD_READ_STORE", f"sqlite:///{tmp_path}/views.db")
    (container,) = workloads()[role]["containers"]
    options = list(container["args"])
    options[options.index("--port") + 1] = "0"
    # SQLite has one writer: operators act there.
    if role == "console":
        options[options.index("--roles") + 1] = "sync,console"
    with running(tmp_path, *options, "--json") as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["data"]["url"].rpartition(":")[2]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            # The kubelet names the address of the pod, and no other host.
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60)
            expected = 503 if path == "/health/ready?side=query" else 200
            assert answer.status_code == expected, (probe, answer.text)
        assert httpx.get(f"http://127.0.0.1:{port}/status", headers={"host": "evil.example"}).status_code != 200
