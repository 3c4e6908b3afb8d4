"""Waiting for generations that are built: it ends when they have caught up, and never goes on for nothing."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count
from twofold.cli.building import FAILING, STALLED, until_built
from twofold.cli.rebuild_client import Seen, _Visit
from twofold.cli.rebuild_command import _Rebuild
from twofold.errors import Conflict, InvalidMessage, TwofoldError, Unavailable
from twofold.settings import Settings
from twofold.synchronization.follower import BuildStatus
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
    return BuildStatus(name, generation, 1, state, position, 0, 0.0, None, None, parked, error)  # type: ignore[arg-type]


def seen(head: int, builds: Sequence[BuildStatus], serving: dict[str, int] | None = None) -> Seen:
    return Seen("log", head, serving or {"a": 1, "b": 1}, list(builds))


class Told:
    """An operator who sees one thing after another, the last of them for ever, and notes what is done.

    What a switch `raises` is raised by one after another.
    """

    def __init__(
        self, *looks: Seen, change: Callable[[int], Seen] | None = None, raises: Sequence[TwofoldError] = ()
    ) -> None:
        self._raises = list(raises)
        self.world = Quick()
        self.looks = 0
        self.done: list[tuple[str, object]] = []
        self._looks = list(looks)
        self._change = change

    async def look(self) -> Seen:
        self.looks += 1
        if self._change is not None:
            return self._change(self.looks)
        return self._looks[min(self.looks, len(self._looks)) - 1]

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        self.done.append(("rebuild", list(names)))
        return dict.fromkeys(names, 2)

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        self.done.append(("switch", f"{name}@{generation}"))
        if self._raises:
            raise self._raises.pop(0)
        return generation

    async def back(self, name: str) -> int:
        raise NotImplementedError

    async def drop(self, name: str) -> list[int]:
        raise NotImplementedError


async def test_it_ends_once_all_have_come_to_where_the_log_ended_a_look_before() -> None:
    looks = [
        seen(100, [building("a", 2, 10), building("b", 2, 90)]),
        seen(110, [building("a", 2, 50), building("b", 2, 109)]),
        seen(120, [building("a", 2, 109), building("b", 2, 119)]),
        seen(130, [building("a", 2, 120), building("b", 2, 130)]),
    ]
    by = Told(*looks)
    await until_built(by, {"a": 2, "b": 2})
    assert by.looks == 4


async def test_a_build_that_is_not_to_be_seen_yet_is_waited_for_and_one_that_serves_is_done() -> None:
    looks = [
        seen(9, []),
        seen(9, [building("a", 2, 3)]),
        seen(9, [building("a", 2, 9)], {"a": 1, "b": 2}),
    ]
    by = Told(*looks)
    await until_built(by, {"a": 2, "b": 2})
    assert by.looks == 3


async def test_a_build_that_somebody_has_given_up_is_not_waited_for() -> None:
    by = Told(seen(9, [building("a", 2, 3)]), seen(9, [building("a", 3, 1)]))
    with pytest.raises(Conflict, match="Generation 2 of 'a' is gone"):
        await until_built(by, {"a": 2})


async def test_a_build_that_stands_still_is_reported_and_not_waited_for_for_ever() -> None:
    by = Told(seen(1_000, [building("a", 2, 300, parked=1), building("b", 2, 1_000)]))
    with pytest.raises(
        Unavailable, match=r"Generation 2 of 'a' stands still at 300 of 1,000 events for 60 s, 1 parked"
    ):
        await until_built(by, {"a": 2, "b": 2})
    assert STALLED < by.world.monotonic() < STALLED + 1
    by = Told(seen(1_000, []))
    with pytest.raises(Unavailable, match="Generation 2 of 'a' has not been begun"):
        await until_built(by, {"a": 2})


async def test_however_slow_a_build_that_moves_is_waited_for() -> None:
    by = Told(change=lambda n: seen(50, [building("a", 2, n // 250)]))
    await until_built(by, {"a": 2})
    assert by.world.monotonic() > 20 * STALLED


async def test_a_build_that_tells_what_keeps_it_is_given_up_on_soon_and_with_that(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing = building("a", 2, 300, error="StoreError: row [/red] \x1b[2J\nis no row.")
    by = Told(seen(1_000, [failing, building("b", 2, 1_000)]))
    told = r"Generation 2 of 'a' stands still at 300 of 1,000 events for 15 s: StoreError: row \[/red\] \\x1b\[2J.*Mend"
    with pytest.raises(Unavailable, match=told):
        await until_built(by, {"a": 2, "b": 2})
    assert FAILING < by.world.monotonic() < FAILING + 1
    shown = capsys.readouterr().err
    assert shown.count("a: StoreError: row [/red] \\x1b[2J is no row.\n") == 1, "told once, as soon as it is known"


async def test_a_build_that_fails_now_and_then_and_goes_on_is_waited_for() -> None:
    def look(n: int) -> Seen:
        return seen(50, [building("a", 2, n // 60, error="Unavailable: away" if n % 60 else None)])

    by = Told(change=look)
    await until_built(by, {"a": 2})
    assert by.world.monotonic() > 20 * FAILING


def rebuild(*names: str, as_json: bool = True) -> _Rebuild:
    return _Rebuild(
        None, Settings(), list(names), comparing=False, switching=True, yes=False, force=False, as_json=as_json
    )


async def test_only_the_generation_that_was_built_and_compared_is_switched_to() -> None:
    by = Told(seen(9, [building("a", 2, 9)]), raises=[Conflict("Not generation 2 of 'a' is under way, but 3.")])
    with pytest.raises(Conflict, match="but 3"):
        await rebuild("a").run(by)
    assert by.done == [("rebuild", ["a"]), ("switch", "a@2")]


async def test_whatever_somebody_else_does_while_it_asks_it_switches_to_nothing_that_it_has_not_compared(
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
        how = {"comparing": True, "switching": True, "yes": False, "force": False, "as_json": False}
        with pytest.raises(Conflict, match="Not generation 2 of 'totals' is under way, but 3"):
            await _Rebuild(app, app.settings, ["totals"], **how).run(_Visit(app))
        (build,) = (await app.status()).builds
        assert (build.generation, build.state) == (3, "building")


async def test_a_switch_whose_answer_was_lost_is_done_and_one_to_what_is_gone_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    under_way = [seen(9, [building("a", 2, 9)])] * 4
    lost: list[TwofoldError] = [Unavailable("no answer"), InvalidMessage("No rebuild of 'a' is under way.")]
    by = Told(*under_way, seen(9, [building("a", 1, 9, state="standby")], {"a": 2}), raises=lost)
    assert await rebuild("a").run(by) == 0
    assert '"generation":2,"serves":true' in capsys.readouterr().out
    by = Told(*under_way, seen(9, [], {"a": 1}), raises=[InvalidMessage("No rebuild of 'a' is under way.")])
    with pytest.raises(InvalidMessage, match="No rebuild"):
        await rebuild("a").run(by)


async def test_a_call_that_was_broken_off_behind_the_first_switch_goes_on_with_the_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    switched = building("a", 1, 9, state="standby")
    looks = seen(9, [switched, building("b", 2, 9)], {"a": 2, "b": 1})
    by = Told(looks)
    assert await rebuild("a", "b").run(by) == 3, "it cannot know whether that was its own call"
    assert by.done == [("rebuild", ["b"]), ("switch", "b@2")]
    (done,) = capsys.readouterr().out.splitlines()
    assert '{"name":"a","generation":2,"serves":true,"comparison":null,"kept":1}' in done
    assert '{"name":"b","generation":2,"serves":true,"comparison":null,"kept":null}' in done
    assert await rebuild("a", "b", as_json=False).run(Told(looks)) == 3
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "a: nothing was built. Generation 2 serves since an earlier call, and 1 is kept as the way back. If it is to "
        "be built anew, drop that first: --drop with a alone."
    )
    assert told[1].startswith("b: generation 2 serves; the one before is kept")


async def test_nothing_is_begun_where_an_earlier_generation_is_kept_of_one() -> None:
    by = Told(seen(9, [building("b", 1, 9, state="standby")], {"a": 1, "b": 2}))
    with pytest.raises(InvalidMessage, match=r"'b' that served before is still kept, as the way back\. Drop it first"):
        await rebuild("a", "b").run(by)
    assert by.done == []
