"""Waiting for builds, and switching to them: it ends when they catch up or stall, and switches to nothing else."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count
from twofold.cli.building import FAILING, STALLED, until_built
from twofold.cli.operator_client import ActionRequest, ActionResult, LocalClient, OperatorStatus
from twofold.cli.rebuild_command import RebuildOptions, _Rebuild
from twofold.errors import Conflict, InvalidMessage, TwofoldError, Unavailable
from twofold.follower_status import build_status, follower_status, partition_status
from twofold.health import BuildStatus
from twofold.read_store.port import Parked
from twofold.settings import Settings
from twofold.world import RealWorld


class Quick(RealWorld):
    """A world in which waiting takes no time."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds


def building(
    name: str, generation: int, position: int, parked: int = 0, state: str = "building", error: str | None = None
) -> BuildStatus:
    keys = [Parked(f"k{n}", position, "ValueError: no", 0) for n in range(parked)]
    return build_status(
        name,
        generation,
        version=1,
        state=state,  # type: ignore[arg-type]
        partitions=[(position, keys)],
        head=position,
        error=error,
    )


def status(head: int, builds: Sequence[BuildStatus], serving: dict[str, int] | None = None) -> OperatorStatus:
    whole = partition_status("0-4096", position=head, lag=(0, 0.0), state="up-to-date", owner=None)
    followers = [
        follower_status(name, "projection", [whole], (), generation=number)
        for name, number in (serving or {"a": 1, "b": 1}).items()
    ]
    return OperatorStatus("log", head, followers, list(builds))


class ScriptedClient:
    """Answers with one status after another, then always with the last, and records what it is asked to do.

    Each switch raises the next error of `raises`.
    """

    def __init__(
        self,
        *statuses: OperatorStatus,
        change: Callable[[int], OperatorStatus] | None = None,
        raises: Sequence[TwofoldError] = (),
    ) -> None:
        self._raises = list(raises)
        self.world = Quick()
        self.polls = 0
        self.done: list[tuple[str, object]] = []
        self._statuses = list(statuses)
        self._change = change

    async def status(self, name: str = "", key: str = "") -> OperatorStatus:
        self.polls += 1
        if self._change is not None:
            return self._change(self.polls)
        return self._statuses[min(self.polls, len(self._statuses)) - 1]

    async def act(self, request: ActionRequest) -> ActionResult:
        raise NotImplementedError

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        self.done.append(("rebuild", list(names)))
        return dict.fromkeys(names, 2)

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        self.done.append(("switch", f"{name}@{generation}"))
        if self._raises:
            raise self._raises.pop(0)
        return generation

    async def switch_back(self, name: str) -> int:
        raise NotImplementedError

    async def drop(self, name: str) -> list[int]:
        raise NotImplementedError


async def test_it_ends_once_all_have_reached_the_head_of_the_poll_before() -> None:
    statuses = [
        status(100, [building("a", 2, 10), building("b", 2, 90)]),
        status(110, [building("a", 2, 50), building("b", 2, 109)]),
        status(120, [building("a", 2, 109), building("b", 2, 119)]),
        status(130, [building("a", 2, 120), building("b", 2, 130)]),
    ]
    client = ScriptedClient(*statuses)
    await until_built(client, {"a": 2, "b": 2})
    assert client.polls == 4


async def test_a_build_that_has_not_started_is_waited_for_and_one_that_serves_is_done() -> None:
    statuses = [
        status(9, []),
        status(9, [building("a", 2, 3)]),
        status(9, [building("a", 2, 9)], {"a": 1, "b": 2}),
    ]
    client = ScriptedClient(*statuses)
    await until_built(client, {"a": 2, "b": 2})
    assert client.polls == 3


async def test_a_build_that_was_dropped_is_not_waited_for() -> None:
    client = ScriptedClient(status(9, [building("a", 2, 3)]), status(9, [building("a", 3, 1)]))
    with pytest.raises(Conflict, match="Generation 2 of 'a' is gone"):
        await until_built(client, {"a": 2})


async def test_a_build_that_is_stalled_is_reported_and_not_waited_for_for_ever() -> None:
    client = ScriptedClient(status(1_000, [building("a", 2, 300, parked=1), building("b", 2, 1_000)]))
    with pytest.raises(Unavailable, match=r"Generation 2 of 'a' is stalled at 300 of 1,000 events for 60 s, 1 parked"):
        await until_built(client, {"a": 2, "b": 2})
    assert STALLED < client.world.monotonic() < STALLED + 1
    client = ScriptedClient(status(1_000, []))
    with pytest.raises(Unavailable, match="Generation 2 of 'a' has not started"):
        await until_built(client, {"a": 2})


async def test_however_slow_a_build_that_moves_is_waited_for() -> None:
    client = ScriptedClient(change=lambda n: status(50, [building("a", 2, n // 250)]))
    await until_built(client, {"a": 2})
    assert client.world.monotonic() > 20 * STALLED


async def test_a_build_that_reports_an_error_is_waited_for_only_a_short_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = building("a", 2, 300, error="StoreError: row [/red] \x1b[2J\nis no row.")
    client = ScriptedClient(status(1_000, [failing, building("b", 2, 1_000)]))
    message = r"Generation 2 of 'a' is stalled at 300 of 1,000 events for 15 s: StoreError: row \[/red\] \\x1b\[2J.*Fix"
    with pytest.raises(Unavailable, match=message):
        await until_built(client, {"a": 2, "b": 2})
    assert FAILING < client.world.monotonic() < FAILING + 1
    shown = capsys.readouterr().err
    assert shown.count("a: StoreError: row [/red] \\x1b[2J is no row.\n") == 1, "reported once, as soon as it is known"


async def test_a_build_that_fails_now_and_then_and_goes_on_is_waited_for() -> None:
    def look(n: int) -> OperatorStatus:
        return status(50, [building("a", 2, n // 60, error="Unavailable: away" if n % 60 else None)])

    client = ScriptedClient(change=look)
    await until_built(client, {"a": 2})
    assert client.world.monotonic() > 20 * FAILING


def rebuild(*names: str, as_json: bool = True) -> _Rebuild:
    return _Rebuild(None, Settings(), list(names), RebuildOptions(False, True, False, False, as_json))


async def test_only_the_generation_that_was_built_and_compared_is_switched_to() -> None:
    client = ScriptedClient(
        status(9, [building("a", 2, 9)]), raises=[Conflict("Not generation 2 of 'a' is under way, but 3.")]
    )
    with pytest.raises(Conflict, match="but 3"):
        await rebuild("a").run(client)
    assert client.done == [("rebuild", ["a"]), ("switch", "a@2")]


async def test_it_switches_only_to_the_generation_that_it_compared_whatever_another_operator_does_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        for n in range(5):
            await app.send(Count(["a"], n), wait_for=["totals"])
        connection = app._running.read_store._connection  # type: ignore[union-attr]
        ((table,),) = connection.execute("select name from sqlite_schema where type = 'table' and name like '%totals%'")
        connection.execute(f"update \"{table}\" set row = json_set(row, '$.total', -1)").fetchall()

        async def asked(question: str) -> bool:
            assert "generation 2" in question
            assert await app.projections.drop("totals") == [2]
            assert await app.projections.rebuild(["totals"]) == {"totals": 3}
            await until(built, "built")
            return True

        async def built() -> bool:
            status = await app.status()
            return [(each.generation, each.lag) for each in status.builds] == [(3, 0)]

        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("twofold.cli.rebuild_command._confirmed", asked)
        options = RebuildOptions(True, True, False, False, False)
        with pytest.raises(Conflict, match="Generation 3 of 'totals' is under way, not generation 2"):
            await _Rebuild(app, app.settings, ["totals"], options).run(LocalClient(app))
        (build,) = (await app.status()).builds
        assert (build.generation, build.state) == (3, "building")


async def test_a_switch_whose_answer_was_lost_is_done_and_one_to_what_is_gone_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    under_way = [status(9, [building("a", 2, 9)])] * 4
    lost: list[TwofoldError] = [Unavailable("no answer"), InvalidMessage("No rebuild of 'a' is under way.")]
    client = ScriptedClient(*under_way, status(9, [building("a", 1, 9, state="standby")], {"a": 2}), raises=lost)
    assert await rebuild("a").run(client) == 0
    assert '"generation":2,"serves":true' in capsys.readouterr().out
    client = ScriptedClient(
        *under_way, status(9, [], {"a": 1}), raises=[InvalidMessage("No rebuild of 'a' is under way.")]
    )
    with pytest.raises(InvalidMessage, match="No rebuild"):
        await rebuild("a").run(client)


async def test_a_call_that_was_interrupted_after_the_first_switch_goes_on_with_the_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    switched = building("a", 1, 9, state="standby")
    looks = status(9, [switched, building("b", 2, 9)], {"a": 2, "b": 1})
    client = ScriptedClient(looks)
    assert await rebuild("a", "b").run(client) == 3, "it cannot know whether that was its own call"
    assert client.done == [("rebuild", ["b"]), ("switch", "b@2")]
    (done,) = capsys.readouterr().out.splitlines()
    assert '{"name":"a","generation":2,"serves":true,"comparison":null,"standby":1}' in done
    assert '{"name":"b","generation":2,"serves":true,"comparison":null,"standby":null}' in done
    assert await rebuild("a", "b", as_json=False).run(ScriptedClient(looks)) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "a: nothing was built. Generation 2 serves since an earlier call, and generation 1 is on standby. To rebuild, "
        "first repeat this command with --drop, for a only."
    )
    assert lines[1].startswith("b: generation 2 serves. The previous one is on standby")


async def test_nothing_is_started_while_an_earlier_generation_of_one_is_on_standby() -> None:
    client = ScriptedClient(status(9, [building("b", 1, 9, state="standby")], {"a": 1, "b": 2}))
    with pytest.raises(InvalidMessage, match=r"Generation 1 of 'b' is on standby\. Drop it before you rebuild"):
        await rebuild("a", "b").run(client)
    assert client.done == []
