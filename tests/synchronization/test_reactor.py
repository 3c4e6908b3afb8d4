"""A policy reacts once to each event, through crashes, restarts and changes of the owner."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Ignored, count, counters
from tests.synchronization.policy_helpers import (
    MARK,
    Noted,
    answers,
    note,
    notes,
    parked_keys,
    react_to,
    with_keys,
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
from twofold.read_store.port import Parked
from twofold.synchronization.policy_rows import OWNERS, Answered, ParkedReaction
from twofold.synchronization.policy_saver import SkippedEvent
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


@pytest.mark.parametrize("written", [0, 1, 2], ids=["no command", "one command", "both commands"])
async def test_a_crash_after_some_commands_sends_the_others_and_repeats_the_key_of_the_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """A system outside is called again with the same idempotency key; the log holds each command once."""
    calls: list[tuple[str, int]] = []
    accepted: dict[str, int] = {}

    async def answer(event: Counted, context: Context) -> list[Count]:
        if event.by >= MARK:
            return []
        calls.append((context.command_id, event.by))
        accepted.setdefault(context.command_id, event.by)
        return [Count(["answers"], MARK + event.by), Count(["answers"], 2 * MARK + event.by)]

    real = PolicyStorage.send

    async def send(self: PolicyStorage, position: int, answered: Answered, *rest: Any, **options: Any) -> Any:
        if answered.sent > written:
            raise Unavailable("died before this command")
        return await real(self, position, answered, *rest, **options)

    async def save(*_: Any, **__: Any) -> None:
        raise Unavailable("died before the checkpoint")

    for crash in range(3):
        async with app_in(tmp_path, with_policy(answer), page_events=2) as app:
            await react_to(app)
            with monkeypatch.context() as patched:
                patched.setattr(PolicyStorage, "send", send)
                patched.setattr(PolicyStorage, "save", save)
                await app.send(Count(["a"], crash + 1))

                async def crashed(app: App = app, by: int = crash + 1) -> bool:
                    found = [each for each in await answers(app) if each % MARK == by]
                    return len(found) == written and any(called == by for _, called in calls)

                await until(crashed, "as far as it comes")
                await app.stop()
    async with app_in(tmp_path, with_policy(answer)) as app:
        await react_to(app)
        assert sorted(await answers(app)) == sorted([MARK + n for n in (1, 2, 3)] + [2 * MARK + n for n in (1, 2, 3)])
    assert sorted(accepted.values()) == [1, 2, 3], "the outside world accepted an effect twice, or not at all"
    repeated = max(Counter(calls).values()) > 1
    assert repeated == (written < 2), "what is answered completely is not answered again; what is not, is"


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

        patched.setattr("twofold.role_stores.open_write_store", shared)
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

    async def before_it_takes_over(space: str, *rest: Any) -> Any:
        before = await rows(space, *rest)
        if space == OWNERS and next(once, False):
            # The earlier owner saves in one commit: its checkpoint, and what is due.
            await first.apply(await log.read(first.query, at), at)
            await until(lambda: first._storage.position == 1, "saved")
        return before

    log.rows = before_it_takes_over  # type: ignore[method-assign]
    assert await second.open() == 1
    log.rows = rows  # type: ignore[method-assign]
    due = {key for key in await rows("policy:answers") if key.startswith("due:")}
    assert second._due.queue.keys == due
    assert len(due) == 1
    # From here on the earlier owner writes nothing.
    await log.append([Append(Metadata(1, "d", "d"), (app.events.encode(Counted(["a"], 2), "d", 0),))])
    await first.apply(await log.read(first.query, 1), 1)
    with pytest.raises(Conflict):
        await until(lambda: first.retry_pending(1), "refused")
    assert {key for key in await rows("policy:answers") if key.startswith("due:")} == due
    await first.close()
    await second.close()


async def test_a_skip_is_not_undone_by_what_was_to_be_saved_of_the_same_key() -> None:
    app, log = App(with_keys(answer_nothing), world=FrozenWorld()), MemoryWriteStore()
    reactor = reactor_of(app, log)
    await reactor.open()
    saver = reactor._saver
    saver.park("all", ParkedReaction(Parked("all", 1, "broken", 0)))
    await saver.save(skip=SkippedEvent("all", 1, None))
    await saver.save()
    assert await log.rows("parked:answers") == {}
    await reactor.close()


def reactor_of(app: App, log: MemoryWriteStore) -> Reactor:
    async def append(new: Append) -> Outcome:
        return (await log.append([new]))[0]

    async def send(command: object, command_id: str, *_: object) -> Any:
        raise AssertionError("nothing is due yet")

    wiring = app.wiring
    storage = PolicyStorage("answers", log, append, app.world)
    sender = CommandSender("answers", wiring.commands, MessageCodec(), send, 100, app.world)
    return Reactor(wiring.policies["answers"], storage, app.events, sender, app.world)


async def test_a_reaction_that_is_cancelled_from_within_is_parked_like_any_that_fails(tmp_path: Path) -> None:
    seen: list[int] = []

    async def answer(event: Noted) -> None:
        if event.by == 13:
            # A client library may cancel a task that it started itself.
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task
        seen.append(event.by)

    async with app_in(tmp_path, with_keys(answer), fold_retries=0) as app:
        for note in notes(1, 13, 3):
            await app.send(note)
        await react_to(app)
        assert (seen, await parked_keys(app)) == ([1, 3], ["counter:n-13"])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_a_policy_that_would_end_the_process_parks_its_event(tmp_path: Path, error: BaseException) -> None:
    seen: list[int] = []

    async def answer(event: Noted) -> None:
        if event.by == 13:
            raise error
        seen.append(event.by)

    async with app_in(tmp_path, with_keys(answer), fold_retries=0) as app:
        for note in notes(1, 13, 3):
            await app.send(note)
        await react_to(app)
        assert (seen, await parked_keys(app)) == ([1, 3], ["counter:n-13"])


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
async def test_an_event_that_a_policy_cannot_read_parks_the_key_of_its_stored_tag(
    tmp_path: Path, error: BaseException
) -> None:
    async with app_in(tmp_path, with_keys(answer_nothing)) as app:
        await react_to(app)
    old = Module("notes", events=[Noted, Counted, Ended, Ignored], decisions=[note, count])
    async with app_in(tmp_path, old) as app:
        for command in notes(1, 13, 3):
            await app.send(command)
    bad, seen = {13}, set[int]()

    def upcast(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["by"] in bad:
            raise error
        return fields

    async def answer(event: Noted) -> None:
        seen.add(event.by)

    events = [Event(Noted, version=2, upcasters={1: upcast}), Counted, Ended, Ignored]
    new = Module("notes", events=events, decisions=[note], policies=[Policy("answers", answer, key=CounterId)])
    async with app_in(tmp_path, new, fold_retries=0) as app:
        await react_to(app)
        assert (seen, await parked_keys(app)) == ({1, 3}, ["counter:n-13"])
        action = await app.projections.retry("answers", "counter:n-13")
        assert action.outcome.startswith("It still fails: UnreadableEvent")
        bad.clear()
        assert (await app.projections.retry("answers", "counter:n-13")).outcome == "It is done."
        assert seen == {1, 3, 13}


async def answer_nothing(event: Noted) -> None:
    return None
