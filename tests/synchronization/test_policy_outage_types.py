"""In an outage only the events of the types that fail wait. Those of other types go on, in the order of each key."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in
from tests.synchronization.policy_helpers import Note, Noted, Paid, Pay, parked_keys, passes, policy_of, with_keys
from twofold.app import App
from twofold.synchronization.outage_breaker import OutageBreaker, ReactionFailure
from twofold.testing import FrozenWorld
from twofold.world import World


class Outside:
    """What the policy calls. Calls for events of the types `away` and for the amounts `broken` fail."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.away: dict[type, Exception] = {}
        self.broken: dict[int, Exception] = {}
        self.calls: list[tuple[float, int]] = []
        self.seen: list[int] = []

    async def answer(self, event: Noted | Paid) -> None:
        self.calls.append((self.world.monotonic(), event.by))
        await asyncio.sleep(0)
        error = self.away.get(type(event)) or self.broken.get(event.by)
        if error is not None:
            raise error
        self.seen.append(event.by)


def an_app(folder: Path, **settings: Any) -> tuple[FrozenWorld, Outside, App]:
    world = FrozenWorld()
    outside = Outside(world)
    return world, outside, app_in(folder, with_keys(outside.answer), world=world, poll_seconds=900, **settings)


async def send(app: App, kind: type[Note] | type[Pay], amounts: Iterable[int]) -> None:
    """Send a command for each amount, each on its own counter."""
    for by in amounts:
        await app.send(kind(f"n-{by}", by))


@pytest.mark.parametrize("error", [ConnectionError("away"), KeyError("a bug")], ids=["outside", "bug"])
async def test_a_type_of_events_that_fails_lets_no_other_type_wait(tmp_path: Path, error: Exception) -> None:
    world, outside, app = an_app(tmp_path)
    outside.away[Noted] = error
    async with app:
        await send(app, Note, range(10))
        await passes(world, app, 5)
        await send(app, Pay, range(10, 40))
        await passes(world, app, 0)
        assert sorted(outside.seen) == list(range(10, 40))
        outage = (await policy_of(app)).outage
        assert outage is not None
        assert (outage.types, outage.keys) == (("noted",), 10)
        assert "so events of type noted wait" in outage.sentence
        assert await parked_keys(app) == []
        outside.away.clear()
        await passes(world, app, 31)
        assert sorted(outside.seen) == list(range(40))
        assert (await policy_of(app)).outage is None


async def test_other_types_go_on_though_more_events_wait_than_are_held_without_an_outage(tmp_path: Path) -> None:
    world, outside, app = an_app(tmp_path, page_events=10)
    outside.away[Noted] = ConnectionError("away")
    async with app:
        await send(app, Note, range(40))
        await passes(world, app, 5)
        await send(app, Pay, range(40, 60))
        await passes(world, app, 0)
        assert sorted(outside.seen) == list(range(40, 60))
        # There is a limit all the same, which ends when the outage does.
        await send(app, Pay, range(60, 260))
        await passes(world, app, 1)
        assert 90 <= len(outside.seen) + 40 <= 110
        outside.away.clear()
        await passes(world, app, 31)
        assert sorted(outside.seen) == list(range(260))


async def test_a_key_whose_first_event_is_of_a_type_that_fails_waits_whole(tmp_path: Path) -> None:
    world, outside, app = an_app(tmp_path)
    outside.away[Noted] = ConnectionError("away")
    async with app:
        await send(app, Note, range(10))
        await passes(world, app, 5)
        for by in (100, 101, 103):
            await app.send(Pay("a", by) if by % 2 else Note("a", by))
            await app.send(Note("b", by + 100) if by % 2 else Pay("b", by + 100))
        await passes(world, app, 60)
        # What stands before the first event that waits.
        assert outside.seen == [200]
        outside.away.clear()
        await passes(world, app, 31)
        assert [by for by in outside.seen if 100 <= by < 200] == [100, 101, 103]
        assert [by for by in outside.seen if by >= 200] == [200, 201, 203]
        assert (await policy_of(app)).lag == 0


async def test_each_type_that_fails_has_its_own_probes_and_its_own_end(tmp_path: Path) -> None:
    world, outside, app = an_app(tmp_path)
    outside.away = {Noted: ConnectionError("mail"), Paid: ConnectionError("bank")}
    async with app:
        await send(app, Note, range(10))
        await send(app, Pay, range(10, 20))
        await passes(world, app, 600)
        outage = (await policy_of(app)).outage
        assert outage is not None
        assert (outage.types, outage.keys, outage.probe_seconds) == (("noted", "paid"), 20, 30.0)
        before = len(outside.calls)
        await passes(world, app, 3_600)
        probes = [by for _, by in outside.calls[before:]]
        assert 118 <= sum(by < 10 for by in probes) <= 122
        assert 118 <= sum(by >= 10 for by in probes) <= 122
        del outside.away[Paid]
        await passes(world, app, 31)
        assert sorted(outside.seen) == list(range(10, 20))
        outage = (await policy_of(app)).outage
        assert outage is not None
        assert (outage.types, outage.keys, outage.error) == (("noted",), 10, "ConnectionError: mail")
        del outside.away[Noted]
        await passes(world, app, 31)
        assert sorted(outside.seen) == list(range(20))


async def test_a_parked_key_that_comes_to_an_event_of_a_type_that_fails_waits_with_it(tmp_path: Path) -> None:
    """Behind a parked event the types are known only when the events are read."""
    world, outside, app = an_app(tmp_path, fold_retries=0)
    outside.away[Paid] = ValueError("a bug")
    async with app:
        await app.send(Pay("a", 1))
        await app.send(Note("a", 2))
        await app.send(Note("a", 3))
        await passes(world, app, 5)
        assert await parked_keys(app) == ["counter:a"]
        outside.away = {Noted: ConnectionError("away")}
        await send(app, Note, range(10, 20))
        await passes(world, app, 600)
        retry = asyncio.create_task(app.projections.retry("answers", "counter:a"))
        await passes(world, app, 1)
        assert (await retry).done
        before = len(outside.calls)
        await passes(world, app, 3_600)
        assert 118 <= len(outside.calls) - before <= 122, "only probes"
        assert (outside.seen, await parked_keys(app)) == ([1], ["counter:a"])
        outside.away.clear()
        await passes(world, app, 31)
        assert [by for by in outside.seen if by < 10] == [1, 2, 3]
        assert sorted(outside.seen) == [1, 2, 3, *range(10, 20)]


async def test_a_parked_key_of_a_type_that_fails_waits_and_goes_on_with_another_type_when_that_is_skipped(
    tmp_path: Path,
) -> None:
    world, outside, app = an_app(tmp_path, fold_retries=0)
    outside.broken[1] = ConnectionError("this mailbox only")
    async with app:
        await app.send(Note("a", 1))
        await app.send(Pay("a", 2))
        await passes(world, app, 0)
        await send(app, Note, [3])
        # Parked at its next attempt, because another event of its type has worked.
        await passes(world, app, 0.25)
        assert await parked_keys(app) == ["counter:a"]
        outside.away[Noted] = ConnectionError("away")
        await send(app, Note, range(10, 20))
        await passes(world, app, 0)
        before = len(outside.calls)
        # It has rested by now, and the first probe is later.
        await passes(world, app, 0.2)
        assert len(outside.calls) == before, "the end of its rest is no probe"
        await passes(world, app, 600)
        skip = asyncio.create_task(app.projections.skip("answers", "counter:a"))
        await passes(world, app, 1)
        assert (await skip).done
        assert outside.seen == [3, 2]


def test_keys_that_were_too_few_to_wait_are_tried_again_when_another_type_works() -> None:
    """They may have called the same."""
    breaker, away = OutageBreaker(2, FrozenWorld()), ReactionFailure(RuntimeError("HTTP 503"), outside=False)
    for kind, key in (("mail", "a"), ("mail", "b"), ("bill", "c"), ("note", "d"), ("note", "e")):
        breaker.failed(kind, key, away)
    assert [breaker.holds(kind) for kind in ("mail", "bill", "note")] == [True, False, True]
    assert breaker.worked("mail") == {"a", "b", "c"}
    assert [breaker.holds(kind) for kind in ("mail", "bill", "note")] == [False, False, True]
