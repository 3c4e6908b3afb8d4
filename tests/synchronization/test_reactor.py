"""A policy reacts once to each event, through crashes and restarts; what it wants done later is done when it is due."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.synchronization.counting import Count, Counted, Ended, app_in, counters, until
from twofold.app import App
from twofold.codec import MessageCodec
from twofold.domain.decision import Context
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import Metadata
from twofold.domain.module import Module
from twofold.domain.process import Later, Policy
from twofold.errors import Conflict, Rejected, Unavailable
from twofold.synchronization.follower import FollowerStatus
from twofold.synchronization.reactor import Reactor
from twofold.testing import FrozenWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, Row

MARK = 1_000
"""Counts that a policy answers with are beyond this, so that it does not answer itself."""


def with_policy(react: Callable[..., Awaitable[Any]], **said: Any) -> Module:
    return counters(policies=[Policy("answers", react, **said)])


async def answers(app: App) -> list[int]:
    running = app._running
    assert running is not None
    events = [app.events.decode(each) for each in (await running.write_store.read(ALL_EVENTS)).events]
    return [event.by for event in events if isinstance(event, Counted) and event.by >= MARK]


async def policy_of(app: App) -> FollowerStatus:
    return next(each for each in (await app.status()).followers if each.kind == "policy")


async def react_to(app: App) -> None:
    """Wait until the policy has seen the whole log, its own answers included."""

    async def done() -> bool:
        status = await policy_of(app)
        return status.lag == 0 and status.state == "live"

    await until(done, "reacted")


async def nothing_parked(app: App) -> None:
    async def none() -> bool:
        return (await policy_of(app)).parked == ()

    await until(none, "nothing is set aside any more")


async def test_each_event_is_answered_once_through_restarts(tmp_path: Path) -> None:
    async def answer(event: Counted) -> Count | None:
        return Count(["answers"], MARK + event.by) if event.by < MARK else None

    for start in range(0, 30, 10):
        async with app_in(tmp_path, with_policy(answer), page_events=3) as app:
            for n in range(start, start + 10):
                await app.send(Count(["a"], n + 1))
            await react_to(app)
            assert sorted(await answers(app)) == [MARK + n + 1 for n in range(start + 10)]


async def test_a_crash_between_the_effect_and_the_checkpoint_repeats_the_key_and_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outside world sees the reaction again, with the same idempotency key; the log sees its command once."""
    calls: list[tuple[str, int]] = []
    accepted: dict[str, int] = {}

    async def answer(event: Counted, context: Context) -> list[Count]:
        if event.by >= MARK:
            return []
        calls.append((context.command_id, event.by))
        accepted.setdefault(context.command_id, event.by)
        return [Count(["answers"], MARK + event.by), Count(["answers"], 2 * MARK + event.by)]

    for crash in range(4):
        async with app_in(tmp_path, with_policy(answer), page_events=2) as app:
            running = app._running
            assert running is not None
            reactor: Any = running.workers[-1].follower

            async def dies(*_: Any) -> None:
                raise asyncio.CancelledError

            await app.send(Count(["a"], 2 * crash + 1))
            await app.send(Count(["a"], 2 * crash + 2))
            monkeypatch.setattr(reactor, "_write", dies)
            worker = running.workers[-1]
            await app.send(Count(["b"], 0))
            await until(lambda worker=worker: worker._task is not None and worker._task.done(), "dead")
    async with app_in(tmp_path, with_policy(answer)) as app:
        await react_to(app)
        assert sorted(await answers(app)) == sorted(
            [MARK + n for n in range(1, 9)] + [2 * MARK + n for n in range(1, 9)]
        )
    assert sorted(accepted.values()) == list(range(1, 9)), "the outside world accepted an effect twice, or not at all"
    assert max(Counter(calls).values()) > 1, "no reaction was repeated: the crash came too late"


async def test_a_deleted_read_database_does_not_run_a_policy_again(tmp_path: Path) -> None:
    reactions: list[int] = []

    async def answer(event: Counted) -> None:
        reactions.append(event.by)

    async with app_in(tmp_path, with_policy(answer)) as app:
        for n in range(5):
            await app.send(Count(["a"], n))
            await app.send(Count(["a"], n + 1))
        await react_to(app)
    before = list(reactions)
    for file in tmp_path.glob("views.db*"):
        file.unlink()
    async with app_in(tmp_path, with_policy(answer)) as app:
        await app.send(Count(["a"], 77))
        await react_to(app)
    assert reactions == [*before, 77]


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_new_policy_starts_at_the_head_unless_told_otherwise(tmp_path: Path, from_start: bool) -> None:
    reactions: list[int] = []

    async def answer(event: Counted) -> None:
        reactions.append(event.by)

    async with app_in(tmp_path) as app:
        await app.send(Count(["a"], 1))
    async with app_in(tmp_path, with_policy(answer, from_start=from_start)) as app:
        await app.send(Count(["a"], 2))
        await react_to(app)
    assert reactions == ([1, 2] if from_start else [2])


async def remind(event: Counted) -> Later | None:
    """The larger the count, the sooner it is answered."""
    return Later(Count(["later"], MARK + event.by), timedelta(seconds=100 - event.by)) if event.by < MARK else None


async def passes(world: FrozenWorld, app: App, seconds: float) -> None:
    """Let time pass, and everything happen that is due by then."""
    await world.advance(seconds)
    await world.settle()


async def test_what_is_wanted_later_survives_restarts_and_is_done_when_due(tmp_path: Path) -> None:
    world = FrozenWorld()
    for by in (10, 20, 30):
        async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
            await app.send(Count(["a"], by))
            await passes(world, app, 1.0)
            assert (await policy_of(app)).lag == 0
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 68)
        assert await answers(app) == []
        await passes(world, app, 1)
        assert await answers(app) == [MARK + 30]
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 10)
        assert await answers(app) == [MARK + 30, MARK + 20]
    await world.advance(100)
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 0.1)
        assert await answers(app) == [MARK + 30, MARK + 20, MARK + 10], (
            "what fell due while nothing ran is done at start"
        )


async def test_what_falls_due_while_another_is_being_sent_is_sent_as_well(tmp_path: Path) -> None:
    """Both are due; while the first is under way an earlier one arrives. None is lost, none goes twice."""
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        running = app._running
        assert running is not None
        reactor: Any = running.workers[-1].follower
        sent: list[int] = []
        send = reactor._send
        late = asyncio.Event()

        async def slowly(command: Count, command_id: str, **said: Any) -> Any:
            sent.append(command.by)
            if command.by == MARK + 10:
                await late.wait()
            return await send(command, command_id, **said)

        reactor._send = slowly
        await app.send(Count(["a"], 10))
        await passes(world, app, 90)
        assert sent == [MARK + 10]
        # Two that want to be first while the first is under way: neither may be taken for it.
        await app.send(Count(["a"], 99))
        await app.send(Count(["a"], 98))
        await passes(world, app, 0.0)
        reactor._due = sorted((0, key, due) for _, key, due in reactor._due)
        late.set()
        await passes(world, app, 5.0)
        assert sorted(sent) == [MARK + 10, MARK + 98, MARK + 99]
        assert sorted(await answers(app)) == [MARK + 10, MARK + 98, MARK + 99]
        rows = await running.write_store.rows("policy:answers")
        assert [key for key in rows if key.startswith("due:")] == []


async def test_a_due_command_that_is_rejected_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        running = app._running
        assert running is not None
        reactor: Any = running.workers[-1].follower
        await app.send(Count(["a"], 99))

        async def rejects(*_: Any, **__: Any) -> None:
            raise Rejected("no")

        monkeypatch.setattr(reactor, "_send", rejects)
        await passes(world, app, 2)
        assert [k for k in await running.write_store.rows("policy:answers") if k.startswith("due:")] == []
        assert (await policy_of(app)).parked == ()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 60)
        assert await answers(app) == []


async def test_a_due_command_that_fails_is_shown_stops_no_other_and_is_sent_by_mended_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        running = app._running
        assert running is not None
        reactor: Any = running.workers[-1].follower
        send = reactor._send

        async def breaks(command: Count, *args: Any, **said: Any) -> Any:
            if command.by == MARK + 99:
                raise ZeroDivisionError("a decision with a bug")
            return await send(command, *args, **said)

        monkeypatch.setattr(reactor, "_send", breaks)
        await app.send(Count(["a"], 99))
        await app.send(Count(["a"], 98))
        await passes(world, app, 3)
        assert await answers(app) == [MARK + 98]
        (aside,) = (await policy_of(app)).parked
        assert "a decision with a bug" in aside.error
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 1.0)
        assert await answers(app) == [MARK + 98, MARK + 99]
        assert (await policy_of(app)).parked == ()


async def test_a_reaction_that_fails_is_set_aside_and_tried_again_at_the_next_start(tmp_path: Path) -> None:
    broken = True

    async def answer(event: Counted | Ended) -> Count | Later | None:
        if isinstance(event, Ended) or event.by >= MARK:
            return None
        if broken and event.by == 2:
            raise ConnectionError("the mail server is away")
        if event.by == 2:
            return Later(Count(["answers"], MARK + 2), timedelta(hours=1))
        return Count(["answers"], MARK + event.by)

    async with app_in(tmp_path, with_policy(answer), fold_retries=1) as app:
        for n in (1, 2, 3):
            await app.send(Count(["a"], n))
        await react_to(app)
        (aside,) = (await policy_of(app)).parked
        assert "the mail server is away" in aside.error
        assert sorted(await answers(app)) == [MARK + 1, MARK + 3]
    async with app_in(tmp_path, with_policy(answer)) as app:
        assert len((await policy_of(app)).parked) == 1
    broken = False
    async with app_in(tmp_path, with_policy(answer)) as app:
        await nothing_parked(app)
    # What it wants later is kept durably, though it came from a second try.
    world = FrozenWorld()
    world._start += timedelta(days=365 * 60)
    async with app_in(tmp_path, with_policy(answer), world=world, poll_seconds=900) as app:
        await passes(world, app, 1.0)
        assert sorted(await answers(app)) == [MARK + 1, MARK + 2, MARK + 3]


async def test_what_is_set_aside_stays_so_while_the_policy_no_longer_takes_that_event(tmp_path: Path) -> None:
    seen: list[int] = []

    async def fails(event: Counted | Ended) -> None:
        if isinstance(event, Ended):
            raise ValueError("not yet")

    async def counts_alone(event: Counted) -> None:
        seen.append(event.by)

    async def mended(event: Counted | Ended) -> None:
        seen.append(0 if isinstance(event, Ended) else event.by)

    async with app_in(tmp_path, with_policy(fails), fold_retries=0) as app:
        await app.send(Count(["a"], 0))
        await app.send(Count(["a"], 7))
        await react_to(app)
        assert [each.position for each in (await policy_of(app)).parked] == [1]
    async with app_in(tmp_path, with_policy(counts_alone)) as app:
        await react_to(app)
        assert [each.position for each in (await policy_of(app)).parked] == [1]
        assert seen == []
    async with app_in(tmp_path, with_policy(mended)) as app:
        await nothing_parked(app)
        assert seen == [0]


async def test_an_app_starts_although_what_was_set_aside_still_finds_the_world_outside_away(tmp_path: Path) -> None:
    away: Exception | None = ValueError("the mail server is away")

    async def mail(event: Counted) -> None:
        if away is not None:
            raise away

    async with app_in(tmp_path, with_policy(mail), fold_retries=0) as app:
        await app.send(Count(["a"]))
        await react_to(app)
        assert (await policy_of(app)).parked
    away = Unavailable("The mail server is away for a moment.")
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(mail), world=world, poll_seconds=900) as app:
        assert (await app.send(Count(["a"]))).position == 2
        await passes(world, app, 1)
        assert (await policy_of(app)).parked
        assert (await policy_of(app)).state == "retrying"
        away = None
        await passes(world, app, 2)
        assert (await policy_of(app)).parked == ()
        assert (await policy_of(app)).state == "live"


async def test_what_found_the_outside_away_at_the_start_is_tried_again_though_no_event_comes(tmp_path: Path) -> None:
    """Each by itself, less and less often: one that stays away holds up neither the others nor new events."""
    seen: list[int] = []
    tried: Counter[int] = Counter()
    away: dict[int, Exception] = {by: ValueError("a bug") for by in (1, 2, 3)}

    async def mail(event: Counted) -> None:
        tried[event.by] += 1
        if event.by in away:
            raise away[event.by]
        seen.append(event.by)

    async with app_in(tmp_path, with_policy(mail), fold_retries=0) as app:
        for by in (1, 2, 3):
            await app.send(Count(["a"], by))
        await react_to(app)
    away = {by: Unavailable("The mail server is away for a moment.") for by in (1, 2, 3)}
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(mail), world=world, poll_seconds=900) as app:
        await passes(world, app, 0.1)
        del away[2], away[3]
        await passes(world, app, 1)
        assert (seen, len((await policy_of(app)).parked)) == ([2, 3], 1)
        await app.send(Count(["a"], 4))
        await passes(world, app, 0.1)
        assert seen == [2, 3, 4]
        before = tried[1]
        await passes(world, app, 3_600)
        assert 60 <= tried[1] - before <= 70
        del away[1]
        await passes(world, app, 60)
        assert (seen, (await policy_of(app)).parked) == ([2, 3, 4, 1], ())


async def test_two_processes_that_start_a_new_policy_at_once_both_start() -> None:
    class Meeting(MemoryWriteStore):
        """Lets nobody go on from an empty checkpoint before both have seen it."""

        def __init__(self) -> None:
            super().__init__()
            self.seen = 0
            self.both = asyncio.Event()

        async def rows(
            self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
        ) -> Mapping[str, Row]:
            found = await super().rows(space, keys, limit)
            if space == "checkpoints":
                self.seen += 1
                if self.seen == 2:
                    self.both.set()
                await self.both.wait()
            return found

    async def nothing(event: Counted) -> None:
        return None

    write_store = Meeting()
    wiring = with_policy(nothing)
    apps = [App(wiring, write_store="memory:", read_store="memory:") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patched:

        async def shared(*_: object, **__: object) -> MemoryWriteStore:
            return write_store

        patched.setattr("twofold.app.open_write_store", shared)
        await asyncio.gather(*(app.start() for app in apps))
    for app in apps:
        await react_to(app)
        await app.stop()


async def test_what_is_set_aside_is_skipped_or_waits_while_the_outside_is_away_and_nothing_is_done_again(
    tmp_path: Path,
) -> None:
    seen: Counter[int] = Counter()
    away: list[Exception] = [ValueError("down")]

    async def mail(event: Counted) -> None:
        if event.by == 3 and away:
            raise away[0]
        seen[event.by] += 1

    async with app_in(tmp_path, counters(policies=[Policy("answers", mail)]), fold_retries=0) as app:
        for by in range(1, 7):
            await app.send(Count(["a"], by))
        await react_to(app)
    before = dict(seen)
    away = [Unavailable("The mail server is away for a moment.")]
    async with app_in(tmp_path, counters(policies=[Policy("answers", mail)])) as app:
        # The others go on meanwhile.
        await app.send(Count(["a"], 7))
        await react_to(app)
        act = await app.projections.skip("answers", "parked:3")
        assert (act.done, act.position) == (True, 3)
        await app.send(Count(["a"], 8))
        await react_to(app)
        assert (await policy_of(app)).parked == ()
    assert seen == before | {7: 1, 8: 1}


async def test_a_skip_of_a_policy_is_done_and_on_record_or_neither(tmp_path: Path) -> None:
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
        (reactor,) = [w.follower for s, w in running.supervisor.workers.items() if s.kind == "policy"]
        append, lost = reactor._append_rows, iter([True, True])  # type: ignore[attr-defined]

        async def fails(new: Any) -> Any:
            if any(row.space == "acts" for row in new.rows) and next(lost, False):
                raise Unavailable("away for a moment")
            return await append(new)

        reactor._append_rows = fails  # type: ignore[attr-defined]
        act = await app.projections.skip("answers", "parked:2")
        assert (act.done, act.position) == (True, 2)
        assert next(lost, None) is None
    broken.clear()
    async with app_in(tmp_path, counters(policies=[Policy("answers", mail)])) as app:
        await app.send(Count(["a"], 4))
        await react_to(app)
    assert seen == [1, 3, 4]


async def test_what_an_owner_before_commits_while_the_next_one_opens_is_due_all_the_same() -> None:
    async def later(event: Counted) -> Later:
        return Later(Count(["due"], MARK + event.by), timedelta(seconds=5))

    app = App(counters(policies=[Policy("answers", later)]), world=FrozenWorld())
    log = MemoryWriteStore()
    first, second = reactor_of(app, log), reactor_of(app, log)
    at = await first.open()
    await log.append([Append(Metadata(1, "c", "c"), (app.events.encode(Counted(["a"], 1), "c", 0),))])
    rows, once = log.rows, iter([True])

    async def between(space: str, *rest: Any) -> Any:
        found = await rows(space, *rest)
        if space == "policy:answers" and next(once, False):
            # A page of the one before, in one commit: its checkpoint, and what is due.
            await first.apply(await log.read(first.query, at), at)
        return found

    log.rows = between  # type: ignore[method-assign]
    position = await second.open()
    log.rows = rows  # type: ignore[method-assign]
    if position == at:
        # What it holds is of before: then it may save nothing, and has to look again.
        with pytest.raises(Conflict):
            await second.apply(await log.read(second.query, at), at)
        await second.open()
    assert {key for _, key, _ in second._due} == {key for key in await rows("policy:answers") if key.startswith("due:")}
    assert len(second._due) == 1
    await first.close()
    await second.close()


def reactor_of(app: App, log: MemoryWriteStore) -> Reactor:
    async def append(new: Append) -> Outcome:
        return (await log.append([new]))[0]

    async def send(command: object, command_id: str, **_: str) -> None:
        raise AssertionError("nothing is due yet")

    wiring = app.wiring
    messages = MessageCodec()
    return Reactor(wiring.policies["answers"], log, app.events, messages, wiring.commands, send, append, app.world)


async def test_a_due_command_that_always_finds_something_away_holds_up_no_other_and_is_shown(tmp_path: Path) -> None:
    async def later(event: Counted) -> Later | None:
        return Later(Count(["due"], MARK + event.by), timedelta(seconds=1)) if event.by < MARK else None

    away = [True]

    def count_or_not(command: Count) -> Counted:
        if command.by == MARK + 1 and away:
            raise Unavailable("the bank is away")
        return Counted(command.counters, command.by)

    module = Module("counters", events=[Counted, Ended], decisions=[count_or_not], policies=[Policy("answers", later)])
    world = FrozenWorld()
    async with app_in(tmp_path, module, world=world, poll_seconds=900) as app:
        for by in (1, 2, 3):
            await app.send(Count(["a"], by))
        await passes(world, app, 5)
        assert await answers(app) == [MARK + 2, MARK + 3]
        await passes(world, app, 60)
        (due,) = (await policy_of(app)).parked
        assert "the bank is away" in due.error
        away.clear()
        await passes(world, app, 60)
        assert await answers(app) == [MARK + 2, MARK + 3, MARK + 1]
        assert (await policy_of(app)).parked == ()


async def parked_keys(app: App) -> list[str]:
    return [each.key for each in (await policy_of(app)).parked]


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("no")], ids=["away", "no"])
async def test_a_due_command_that_is_skipped_while_it_is_being_sent_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("twofold.synchronization.reactor._TRIES_SHOWN", 1)

    async def answer(event: Counted) -> Later | None:
        return Later(Count(["answers"], MARK + event.by), timedelta(0)) if event.by < MARK else None

    async with app_in(tmp_path, with_policy(answer)) as app:
        reactor = next(w.follower for w in app._running.workers if w.follower.kind == "policy")  # type: ignore[union-attr]
        going, go, tries = asyncio.Event(), asyncio.Event(), 0

        async def away(*_: Any, **__: Any) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise Unavailable("away")
            going.set()
            await go.wait()
            raise error

        monkeypatch.setattr(reactor, "_send", away)
        await app.send(Count(["a"], 1))
        async with asyncio.timeout(30):
            await going.wait()
        (key,) = await parked_keys(app)
        act = await app.projections.skip("answers", key)
        assert (act.done, act.outcome) == (True, "The command is not sent any more.")
        go.set()
        # Another one that is due comes behind it: then it has come back, or not.
        monkeypatch.setattr(reactor, "_send", app._running.commands.handle)  # type: ignore[union-attr]
        await app.send(Count(["a"], 2))

        async def answered() -> bool:
            return await answers(app) == [MARK + 2]

        await until(answered, "the other one is sent")
        assert (tries, await parked_keys(app), reactor._due) == (2, [], [])  # type: ignore[attr-defined]


async def test_a_reaction_that_is_cancelled_from_within_is_set_aside_like_any_that_fails(tmp_path: Path) -> None:
    seen: list[int] = []

    async def answer(event: Counted) -> None:
        if event.by == 13:
            # As a client of the world outside does that cancels a task of its own.
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task
        seen.append(event.by)

    async with app_in(tmp_path, counters(policies=[Policy("answers", answer)]), fold_retries=0) as app:
        for by in (1, 13, 3):
            await app.send(Count(["a"], by))
        await react_to(app)
        assert (seen, await parked_keys(app)) == ([1, 3], ["parked:2"])
