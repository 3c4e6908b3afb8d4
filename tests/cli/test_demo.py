"""`twofold demo`: the shop is up at once, the old orders go in, and no interruption changes the totals."""

import signal
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from tests.cli.command_line_helpers import PATIENCE, next_line, run_json, running, stop
from twofold import App, Receipt, Unavailable
from twofold.cli.demo_command import command
from twofold.cli.demo_shop import ShopTotals
from twofold.errors import WiringError

TOTALS = {
    "orders": 6_919, "customers": 2_357, "cds": 16_479, "revenue_cents": 24_409_194, "free_orders": 8, "paid": 6_919,
}  # fmt: skip


def test_killed_twice_on_its_way_it_goes_on_and_ends_at_the_known_totals(tmp_path: Path) -> None:
    reached: list[int] = []
    for _ in range(2):
        with running(tmp_path, "demo", "--no-serve") as process:
            first = next_line(process.stderr)
            assert first.startswith("Replaying: ")
            reached.append(int(first.split()[1].replace(",", "")))
            for _ in range(2):
                next_line(process.stderr)
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE) == -signal.SIGKILL
    code, said = run_json(tmp_path, "demo", "--no-serve")
    assert (code, said["data"]["totals"], said["data"]["right"]) == (0, TOTALS, True)
    assert reached[0] == 0
    assert 0 < reached[1] < 6_919 - said["data"]["sent"] < 6_919

    code, said = run_json(tmp_path, "demo", "--no-serve")
    assert (code, said["data"]["totals"], said["data"]["sent"]) == (0, TOTALS, 0)


def test_the_shop_is_up_while_orders_come_in_and_ctrl_c_interrupts_without_loss(tmp_path: Path) -> None:
    with running(tmp_path, "demo", "--port", "0", "--speed", "100") as process:
        assert "The shop is running" in next_line(process.stdout)
        shown = dict(next_line(process.stdout).strip().rsplit(maxsplit=1) for _ in range(5))
        assert httpx.get(shown["pages"]).status_code == 200
        assert httpx.get(shown["console"]).status_code == 200
        assert shown["write store"] == str(tmp_path / "data/demo/log.db")
        while "of 6,919 orders" not in next_line(process.stderr):
            pass
        code, said = run_json(tmp_path, "demo", "--fresh", "--no-serve")
        assert (code, said["error"]["kind"]) == (2, "wiring-error")
        assert f"pid {process.pid}" in said["error"]["message"]
        code, _, err = stop(process, signal.SIGINT)
        assert code == 130
        assert "Start the demo again to go on." in err
        assert "Traceback" not in err
    with running(tmp_path, "demo", "--no-serve", "--speed", "100", "--fresh") as process:
        assert next_line(process.stderr) == "Replaying: 0 of 6,919 orders\n"
        code, _, err = stop(process, signal.SIGINT)
        assert code == 130
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "field", "cure"),
    [
        (["--speed", "0"], "--speed", "0"),
        (["--speed", "nan"], "--speed", "not a finite number"),
        (["--speed", "fast"], "--speed", "fast"),
        (["--fresh", "--write-store", "memory:"], None, "--fresh deletes files in --data"),
        (["--data", "a-file"], "--data", "is a file"),
    ],
)
def test_wrong_usage_is_reported_with_the_option_and_what_to_do(
    tmp_path: Path, options: list[str], field: str | None, cure: str
) -> None:
    (tmp_path / "a-file").write_text("")
    code, said = run_json(tmp_path, "demo", "--no-serve", *options)
    assert (code, said["error"]["kind"], said["error"]["field"]) == (2, "usage", field)
    assert cure in said["error"]["message"]


def test_without_the_shop_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "shop", None)
    done = CliRunner().invoke(command, ["--no-serve"])
    assert isinstance(done.exception, WiringError)
    assert "Run `make demo` in a clone" in str(done.exception)


@pytest.mark.parametrize("mode", [["--port", "0"], ["--no-serve"]])
def test_a_store_that_fails_meanwhile_ends_it_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: list[str]
) -> None:
    sends: list[str] = []
    send = App.send

    async def fails_later(app: App, command: object, *, command_id: str | None = None) -> Receipt:
        sends.append(command_id or "")
        if len(sends) > 100:
            raise Unavailable("the disk is full")
        return await send(app, command, command_id=command_id)

    monkeypatch.setattr(App, "send", fails_later)
    done = CliRunner().invoke(command, ["--data", str(tmp_path), *mode])
    assert isinstance(done.exception, Unavailable)
    assert str(done.exception) == "the disk is full"


@pytest.mark.parametrize(
    ("totals", "included"),
    [
        (ShopTotals(10, 5, 20, 1_000, 1, 10), True),
        (ShopTotals(11, 5, 22, 1_100, 1, 10), True),
        (ShopTotals(9, 5, 20, 1_000, 1, 10), False),
        (ShopTotals(10, 6, 20, 1_000, 1, 10), False),
        (ShopTotals(11, 5, 20, 999, 1, 11), False),
    ],
)
def test_totals_are_right_when_they_are_the_old_shop_s_or_those_and_more(totals: ShopTotals, included: bool) -> None:
    assert ShopTotals(10, 5, 20, 1_000, 1, 10).included_in(totals) is included
