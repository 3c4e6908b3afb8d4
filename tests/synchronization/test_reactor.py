"""A policy reacts once to each event, through crashes, restarts and changes of the owner."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, Ended, Ignored, count, counters
from tests.synchronization.policy_helpers import (
    MARK,
    answers,
    parked_keys,
    react_to,
    with_policy,
)
from twofold.app import App
from twofold.codec import MessageCodec
from twofold.domain.decision import Context
from twofold.domain.envelope import Metadata
from twofold.domain.events import Event
from twofold.domain.module import Module
from twofold.domain.policy import Later, Policy
from twofold.errors import Conflict, Unavailable
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender
from twofold.synchronization.reactor import Reactor
from twofold.testing import FrozenWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, LogRow, Outcome


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
    """A system outside is called again with the same idempotency key; the log holds the command once."""
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
            reactor: Any = running.synchronization.workers[-1].follower

            async def dies(*_: Any) -> None:
                raise asyncio.CancelledError

            await app.send(Count(["a"], 2 * crash + 1))
            await app.send(Count(["a"], 2 * crash + 2))
            monkeypatch.setattr(reactor._storage, "save", dies)
            worker = running.synchronization.workers[-1]
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


async def test_two_processes_that_start_a_new_policy_at_once_both_start() -> None:
    class Meeting(MemoryWriteStore):
        """Each process reads the empty checkpoint, and waits until the other has read it too."""

        def __init__(self) -> None:
            super().__init__()
            self.seen = 0
            self.both = asyncio.Event()

        async def rows(
            self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
        ) -> Mapping[str, LogRow]:
            rows = await super().rows(space, keys, limit)
            if space == "checkpoints":
                self.seen += 1
                if self.seen == 2:
                    self.both.set()
                await self.both.wait()
            return rows

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


async def test_what_the_earlier_owner_commits_while_the_next_one_opens_is_still_due() -> None:
    async def later(event: Counted) -> Later:
        return Later(Count(["due"], MARK + event.by), timedelta(seconds=5))

    app = App(counters(policies=[Policy("answers", later)]), world=FrozenWorld())
    log = MemoryWriteStore()
    first, second = reactor_of(app, log), reactor_of(app, log)
    at = await first.open()
    await log.append([Append(Metadata(1, "c", "c"), (app.events.encode(Counted(["a"], 1), "c", 0),))])
    rows, once = log.rows, iter([True])

    async def between(space: str, *rest: Any) -> Any:
        before = await rows(space, *rest)
        if space == "policy:answers" and next(once, False):
            # The earlier owner saves a page in one commit: its checkpoint, and what is due.
            await first.apply(await log.read(first.query, at), at)
        return before

    log.rows = between  # type: ignore[method-assign]
    position = await second.open()
    log.rows = rows  # type: ignore[method-assign]
    if position == at:
        # It has read the state from before that page: it cannot save anything, and has to open again.
        with pytest.raises(Conflict):
            await second.apply(await log.read(second.query, at), at)
        await second.open()
    assert {key for _, key, _ in second._due._queue} == {
        key for key in await rows("policy:answers") if key.startswith("due:")
    }
    assert len(second._due._queue) == 1
    await first.close()
    await second.close()


def reactor_of(app: App, log: MemoryWriteStore) -> Reactor:
    async def append(new: Append) -> Outcome:
        return (await log.append([new]))[0]

    async def send(command: object, command_id: str, **_: object) -> Any:
        raise AssertionError("nothing is due yet")

    wiring = app.wiring
    storage = PolicyStorage("answers", log, append, app.world)
    sender = CommandSender("answers", wiring.commands, MessageCodec(), send, 100)
    return Reactor(wiring.policies["answers"], storage, app.events, sender, app.world)


async def test_a_reaction_that_is_cancelled_from_within_is_parked_like_any_that_fails(tmp_path: Path) -> None:
    seen: list[int] = []

    async def answer(event: Counted) -> None:
        if event.by == 13:
            # A client library may cancel a task that it started itself.
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task
        seen.append(event.by)

    async with app_in(tmp_path, counters(policies=[Policy("answers", answer)]), fold_retries=0) as app:
        for by in (1, 13, 3):
            await app.send(Count(["a"], by))
        await react_to(app)
        assert (seen, await parked_keys(app)) == ([1, 3], ["parked:2"])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_a_policy_that_would_end_the_process_parks_its_event(tmp_path: Path, error: BaseException) -> None:
    seen: list[int] = []

    async def answer(event: Counted) -> None:
        if event.by == 13:
            raise error
        seen.append(event.by)

    async with app_in(tmp_path, counters(policies=[Policy("answers", answer)]), fold_retries=0) as app:
        for by in (1, 13, 3):
            await app.send(Count(["a"], by))
        await react_to(app)
        assert (seen, await parked_keys(app)) == ([1, 3], ["parked:2"])


@pytest.mark.parametrize("answer", [7, "count", [Count(["b"], MARK), 7], Later(7, timedelta(1)), Counted([], 1)])
async def test_a_policy_that_returns_no_command_is_named_with_what_it_returned(tmp_path: Path, answer: Any) -> None:
    async def reaction(event: Counted) -> Any:
        return answer if event.by == 13 else None

    async with app_in(tmp_path, counters(policies=[Policy("answers", reaction)]), fold_retries=0) as app:
        await app.send(Count(["a"], 13))
        await react_to(app)
        (parked,) = next(each for each in (await app.status()).followers if each.kind == "policy").parked
        assert parked.error.startswith("FunctionFailed: The policy 'answers' returned ")
        assert repr(answer)[:20] in parked.error or "7" in parked.error
        assert await answers(app) == [], "no command is sent if one of them is none"


@pytest.mark.parametrize("error", [ValueError("seven"), Unavailable("a service"), SystemExit(3)])
async def test_an_event_that_a_policy_cannot_read_is_parked_by_position(tmp_path: Path, error: BaseException) -> None:
    async with app_in(tmp_path, counters(policies=[Policy("answers", answer_nothing)])) as app:
        await react_to(app)
    old = Module("counters", events=[Counted, Ended, Ignored], decisions=[count])
    async with app_in(tmp_path, old) as app:
        for by in (1, 13, 3):
            await app.send(Count(["a"], by))
    bad, seen = {13}, set[int]()

    def upcast(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["by"] in bad:
            raise error
        return fields

    async def answer(event: Counted) -> None:
        seen.add(event.by)

    events = [Event(Counted, version=2, upcasters={1: upcast}), Ended, Ignored]
    new = Module("counters", events=events, decisions=[count], policies=[Policy("answers", answer)])
    async with app_in(tmp_path, new, fold_retries=0) as app:
        await react_to(app)
        assert (seen, await parked_keys(app)) == ({1, 3}, ["parked:2"])
        assert (await app.projections.retry("answers", "parked:2")).outcome.startswith(
            "It still fails: UnreadableEvent"
        )
        bad.clear()
        assert (await app.projections.retry("answers", "parked:2")).outcome == "It is done."
        assert seen == {1, 3, 13}


async def answer_nothing(event: Counted) -> None:
    return None
