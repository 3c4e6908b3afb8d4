"""A parked key that an operator retries: the policy goes on while the reaction runs, and its end ends it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, counters
from tests.synchronization.policy_helpers import MARK, Note, Noted, answers, parked_keys, passes, react_to, with_keys
from twofold.app import App
from twofold.errors import Unavailable
from twofold.settings import Settings
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender
from twofold.testing import FrozenWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome

KEY = "counter:a"


class Mail:
    """What the policy calls. For the key `a` it fails while it is `broken`, and hangs while it `hangs`."""

    def __init__(self) -> None:
        self.broken = True
        self.hangs = False
        self.calls: Counter[int] = Counter()
        self.seen: list[int] = []
        self.running = 0

    async def send(self, event: Noted) -> None:
        self.calls[event.by] += 1
        self.running += 1
        try:
            if event.counter == "a" and self.broken:
                raise ValueError("broken")
            if event.counter == "a" and self.hangs:
                await asyncio.Event().wait()
            self.seen.append(event.by)
        finally:
            self.running -= 1


async def retried(folder: Path, mail: Mail, **settings: Any) -> tuple[FrozenWorld, App, "asyncio.Task[Any]"]:
    """An app that has started, and the request of an operator for a key, the reaction of which hangs."""
    world = FrozenWorld()
    app = app_in(folder, with_keys(mail.send), world=world, poll_seconds=900, fold_retries=0, **settings)
    await app.start()
    await app.send(Note("a", 1))
    await app.send(Note("a", 2))
    await passes(world, app, 1)
    assert (mail.calls, await parked_keys(app)) == ({1: 1}, [KEY])
    mail.broken, mail.hangs = False, True
    request = asyncio.create_task(app.projections.retry("answers", KEY, timeout=10_000))
    await passes(world, app, 1)
    assert (mail.calls, mail.running) == ({1: 2}, 1)
    return world, app, request


async def test_the_log_is_read_and_other_keys_are_answered_while_the_reaction_hangs(tmp_path: Path) -> None:
    mail = Mail()
    world, app, request = await retried(tmp_path, mail, page_events=1)
    for by in range(10, 15):
        await app.send(Note("b", by))
    await passes(world, app, 1)
    assert mail.seen == [10, 11, 12, 13, 14]
    again = asyncio.create_task(app.projections.retry("answers", KEY))
    await passes(world, app, 1)
    assert (await again).outcome == "It is being retried now."
    request.cancel()
    await app.stop()
    assert mail.running == 0


@pytest.mark.parametrize("what", ["pause", "skip"])
async def test_a_pause_and_a_skip_end_the_reaction(tmp_path: Path, what: str) -> None:
    mail = Mail()
    world, app, request = await retried(tmp_path, mail)
    mail.hangs = False
    ending = asyncio.create_task(
        app.projections.pause("answers") if what == "pause" else app.projections.skip("answers", KEY)
    )
    await passes(world, app, 1)
    assert (await ending).done
    if what == "pause":
        assert mail.running == 0
        resume = asyncio.create_task(app.projections.resume("answers"))
        await passes(world, app, 1)
        assert (await resume).done
    await passes(world, app, 1)
    assert (mail.seen, await parked_keys(app)) == ([1, 2] if what == "pause" else [2], [])
    # The request is done again until it is on record.
    await passes(world, app, 10)
    assert (await request).outcome == "'counter:a' of 'answers' is not parked. No key of it is."
    await app.stop()


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a driver with a bug")], ids=["away", "bug"])
async def test_a_retry_of_which_the_store_does_not_say_whether_it_was_written_opens_the_policy_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broken, world, send = [True], FrozenWorld(), CommandSender.send

    async def answer(event: Noted) -> Count:
        if broken:
            raise ValueError("broken")
        return Count([event.counter], MARK + event.by)

    async def loses_the_answer(self: CommandSender, *rest: Any) -> None:
        await send(self, *rest)
        raise Unavailable("The answer was lost.")

    async def cannot_check(self: PolicyStorage, position: int | None = None) -> None:
        if position is not None:
            raise error

    async with app_in(tmp_path, with_keys(answer), world=world, poll_seconds=900, fold_retries=0) as app:
        for by in (1, 2):
            await app.send(Note("a", by))
        await passes(world, app, 1)
        broken.clear()
        with monkeypatch.context() as patched:
            patched.setattr(CommandSender, "send", loses_the_answer)
            patched.setattr(PolicyStorage, "check", cannot_check)
            request = asyncio.create_task(app.projections.retry("answers", KEY, timeout=20))
            await passes(world, app, 0)
            assert await answers(app) == [MARK + 1]
        await passes(world, app, 30)
        await asyncio.gather(request, return_exceptions=True)
        assert (await answers(app), await parked_keys(app)) == ([MARK + 1, MARK + 2], [])


@pytest.mark.parametrize("lost", [False, True], ids=["written", "answer lost"])
async def test_a_skip_while_a_command_of_the_event_is_being_written_leaves_no_row_behind(
    monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    answer_lost = [True] if lost else []
    broken, go, world, append = [True], asyncio.Event(), FrozenWorld(), MemoryWriteStore.append

    async def answer(event: Noted) -> Count:
        if broken:
            raise ValueError("broken")
        return Count([event.counter], MARK + event.by)

    async def slowly(self: MemoryWriteStore, batch: Sequence[Append]) -> list[Outcome]:
        if any(each.command_id is not None and each.command_id.startswith("~") for each in batch):
            await go.wait()
            if answer_lost:
                answer_lost.clear()
                await append(self, batch)
                raise Unavailable("The answer was lost.")
        return await append(self, batch)

    monkeypatch.setattr(MemoryWriteStore, "append", slowly)
    settings = Settings(poll_seconds=900, fold_retries=0)
    app = App(with_keys(answer), write_store="memory:", read_store="memory:", settings=settings, world=world)
    async with app:
        for by in (1, 2):
            await app.send(Note("a", by))
        await passes(world, app, 1)
        broken.clear()
        retry = asyncio.create_task(app.projections.retry("answers", KEY, timeout=100))
        await passes(world, app, 1)
        # Not by a request: that would have to be written, too.
        skip = asyncio.create_task(reactor_of(app).skip(KEY, []))
        await passes(world, app, 1)
        go.set()
        await passes(world, app, 10)
        assert skip.done()
        await skip
        retry.cancel()
        assert (await answers(app), await parked_keys(app)) == ([MARK + 1, MARK + 2], [])
        running = app._running
        assert running is not None
        assert await running.write_store.rows("answered:answers") == {}


def reactor_of(app: App) -> Any:
    running = app._running
    assert running is not None
    workers = running.synchronization.supervisor.workers.items()
    return next(worker.follower for unit, worker in workers if unit.kind == "policy")


@pytest.mark.parametrize("what", ["retry", "skip"])
async def test_an_operator_who_names_an_unknown_key_is_answered_with_the_first_keys_that_are_parked(
    tmp_path: Path, what: str
) -> None:
    async def breaks(event: Noted) -> None:
        raise ValueError("broken")

    async with app_in(tmp_path, with_keys(breaks), fold_retries=0, policy_breaker_keys=0) as app:
        act = getattr(app.projections, what)
        assert (await act("answers", "o-1")).outcome == "'o-1' of 'answers' is not parked. No key of it is."
        for by in range(7):
            await app.send(Note(f"n-{by}", by))
        await react_to(app)
        action = await act("answers", "o-1")
        names = ", ".join(f"counter:n-{by}" for by in range(5))
        assert not action.done
        assert action.outcome == f"'o-1' of 'answers' is not parked. Parked are: {names} and 2 more."


@pytest.mark.parametrize("what", ["retry", "skip"])
async def test_the_same_holds_for_a_projection(tmp_path: Path, what: str) -> None:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total:
        raise ValueError("broken")

    async with app_in(tmp_path, counters(fold), fold_retries=0) as app:
        for counter in "ab":
            await app.send(Count([counter], 1))
        await until(lambda: _parked_count(app, 2), "both are parked")
        action = await getattr(app.projections, what)("totals", "z")
        assert (action.done, action.outcome) == (False, "'z' of 'totals' is not parked. Parked are: a, b.")


async def _parked_count(app: App, count: int) -> bool:
    return len(await app.projections.parked("totals")) == count
