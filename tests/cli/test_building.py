"""Waiting for generations that are built: it ends when they have caught up, and never goes on for nothing."""

from collections.abc import Callable, Sequence

import pytest

from twofold.cli.building import STALLED, until_built
from twofold.cli.rebuild import _Rebuild
from twofold.cli.verbs import Seen
from twofold.errors import Conflict, InvalidMessage, Unavailable
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


def building(name: str, generation: int, position: int, parked: int = 0, state: str = "building") -> BuildStatus:
    return BuildStatus(name, generation, 1, state, position, 0, 0.0, None, None, parked)  # type: ignore[arg-type]


def seen(head: int, builds: Sequence[BuildStatus], serving: dict[str, int] | None = None) -> Seen:
    return Seen("log", head, serving or {"a": 1, "b": 1}, list(builds))


class Told:
    """An operator who sees one thing after another, the last of them for ever, and notes what is done."""

    def __init__(self, *looks: Seen, change: Callable[[int], Seen] | None = None) -> None:
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

    async def switch(self, name: str, *, force: bool) -> int:
        self.done.append(("switch", name))
        return 2

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


def rebuild(*names: str) -> _Rebuild:
    return _Rebuild(
        None, Settings(), list(names), comparing=False, switching=True, yes=False, force=False, as_json=True
    )


async def test_a_call_that_was_broken_off_behind_the_first_switch_goes_on_with_the_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    switched = building("a", 1, 9, state="kept")
    by = Told(seen(9, [switched, building("b", 2, 9)], {"a": 2, "b": 1}))
    assert await rebuild("a", "b").run(by) == 0
    assert by.done == [("rebuild", ["b"]), ("switch", "b")]
    assert '"name":"a","generation":2,"serves":true,"comparison":null' in capsys.readouterr().out


async def test_nothing_is_begun_where_an_earlier_generation_is_kept_of_one() -> None:
    by = Told(seen(9, [building("b", 1, 9, state="kept")], {"a": 1, "b": 2}))
    with pytest.raises(InvalidMessage, match=r"'b' that served before is still kept, as the way back\. Drop it first"):
        await rebuild("a", "b").run(by)
    assert by.done == []
