"""An event that a policy fails on is parked, and retried, skipped or kept until the policy can react."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.sample_domains.counter_app_helpers import app_in
from tests.sample_domains.counters import Count, Counted, Ended, counters
from tests.synchronization.policy_helpers import (
    MARK,
    Noted,
    answers,
    notes,
    nothing_parked,
    parked_keys,
    passes,
    policy_of,
    react_to,
    with_keys,
    with_policy,
)
from twofold.domain.policy import Later, Policy
from twofold.errors import Unavailable
from twofold.testing import FrozenWorld


async def test_a_reaction_that_fails_is_parked_and_retried_at_the_next_start(tmp_path: Path) -> None:
    broken = True

    async def answer(event: Noted) -> Count | Later:
        if broken and event.by == 2:
            raise ValueError("there is no such mailbox")
        if event.by == 2:
            return Later(Count(["answers"], MARK + 2), timedelta(hours=1))
        return Count(["answers"], MARK + event.by)

    async with app_in(tmp_path, with_keys(answer), fold_retries=1) as app:
        for note in notes(1, 2, 3):
            await app.send(note)
        await react_to(app)
        (parked,) = (await policy_of(app)).parked
        assert "there is no such mailbox" in parked.error
        assert sorted(await answers(app)) == [MARK + 1, MARK + 3]
    async with app_in(tmp_path, with_keys(answer)) as app:
        assert len((await policy_of(app)).parked) == 1
    broken = False
    async with app_in(tmp_path, with_keys(answer)) as app:
        await nothing_parked(app)
    # A command for later is stored durably, even if it comes from a retry.
    world = FrozenWorld()
    world._start += timedelta(days=365 * 60)
    async with app_in(tmp_path, with_keys(answer), world=world, poll_seconds=900) as app:
        await passes(world, app, 1.0)
        assert sorted(await answers(app)) == [MARK + 1, MARK + 2, MARK + 3]


async def test_a_parked_event_stays_parked_while_the_policy_no_longer_takes_it(tmp_path: Path) -> None:
    seen: list[int] = []

    async def fails(event: Counted | Ended) -> None:
        if isinstance(event, Ended):
            raise ValueError("not yet")

    async def counts_only(event: Counted) -> None:
        seen.append(event.by)

    async def repaired(event: Counted | Ended) -> None:
        seen.append(0 if isinstance(event, Ended) else event.by)

    async with app_in(tmp_path, with_policy(fails), fold_retries=0) as app:
        await app.send(Count(["a"], 0))
        await app.send(Count(["a"], 7))
        await react_to(app)
        assert [(parked.position, parked.waiting) for parked in (await policy_of(app)).parked] == [(1, 1)]
    async with app_in(tmp_path, with_policy(counts_only)) as app:
        await react_to(app)
        assert [(parked.position, parked.waiting) for parked in (await policy_of(app)).parked] == [(1, 1)]
        assert seen == []
    async with app_in(tmp_path, with_policy(repaired)) as app:
        await nothing_parked(app)
        assert seen == [0, 7]


async def test_what_is_parked_because_the_outside_is_away_is_retried_without_a_request(tmp_path: Path) -> None:
    """Each key with its own growing delay: one that keeps failing delays neither the others nor new events."""
    seen: list[int] = []
    tried: Counter[int] = Counter()
    away: dict[int, Exception] = {1: Unavailable("The bank of this customer is away.")}

    async def mail(event: Noted) -> None:
        tried[event.by] += 1
        if event.by in away:
            raise away[event.by]
        seen.append(event.by)

    world = FrozenWorld()
    async with app_in(tmp_path, with_keys(mail), world=world, poll_seconds=900, fold_retries=1) as app:
        for by in range(1, 12):
            await app.send(*notes(by))
            await passes(world, app, 0.5)
        assert (seen, await parked_keys(app)) == ([*range(2, 12)], ["counter:n-1"])
        assert (await policy_of(app)).state == "up-to-date"
        before = tried[1]
        await passes(world, app, 3_600)
        assert 115 <= tried[1] - before <= 130
        del away[1]
        await passes(world, app, 60)
        assert (seen, (await policy_of(app)).parked) == ([*range(2, 12), 1], ())


async def test_a_parked_event_is_skipped_and_no_other_is_repeated(tmp_path: Path) -> None:
    seen: Counter[int] = Counter()
    away: list[Exception] = [ValueError("down")]

    async def mail(event: Noted) -> None:
        if event.by == 3 and away:
            raise away[0]
        seen[event.by] += 1

    async with app_in(tmp_path, with_keys(mail), fold_retries=0) as app:
        for note in notes(*range(1, 7)):
            await app.send(note)
        await react_to(app)
    before = dict(seen)
    away = [Unavailable("The mail server is away for a moment.")]
    async with app_in(tmp_path, with_keys(mail)) as app:
        # Other events are handled meanwhile.
        await app.send(*notes(7))
        await react_to(app)
        act = await app.projections.skip("answers", "counter:n-3", 2)
        assert (act.done, act.outcome.partition(".")[0]) == (False, "'counter:n-3' is parked at 3 now, not at 2")
        act = await app.projections.skip("answers", "counter:n-3", 3)
        assert (act.done, act.position) == (True, 3)
        await app.send(*notes(8))
        await react_to(app)
        assert (await policy_of(app)).parked == ()
    assert seen == before | {7: 1, 8: 1}


async def test_a_skip_of_a_policy_is_done_and_recorded_or_neither(tmp_path: Path) -> None:
    seen: list[int] = []
    broken = [True]

    async def mail(event: Counted) -> None:
        if event.by == 2 and broken:
            raise ValueError("down")
        seen.append(event.by)

    async with app_in(tmp_path, counters(policies=[Policy("answers", mail)]), fold_retries=0) as app:
        for by in (1, 2, 3):
            await app.send(Count(["a"], by))
        await react_to(app)
        running = app._running
        assert running is not None
        (reactor,) = [w.follower for s, w in running.synchronization.supervisor.workers.items() if s.kind == "policy"]
        append, lost = reactor._storage._append_rows, iter([True, True])  # type: ignore[attr-defined]

        async def fails(new: Any) -> Any:
            if any(row.space == "acts" for row in new.rows) and next(lost, False):
                raise Unavailable("away for a moment")
            return await append(new)

        reactor._storage._append_rows = fails  # type: ignore[attr-defined]
        act = await app.projections.skip("answers", "all")
        assert (act.done, act.position) == (True, 2)
        assert next(lost, None) is None
    broken.clear()
    async with app_in(tmp_path, counters(policies=[Policy("answers", mail)])) as app:
        await app.send(Count(["a"], 4))
        await react_to(app)
    assert seen == [1, 3, 4]
