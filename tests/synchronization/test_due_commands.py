"""A command that a policy wants to send later is sent when it is due, once, and delays no other."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, Ended
from tests.synchronization.policy_helpers import (
    MARK,
    answers,
    parked_keys,
    passes,
    policy_of,
    remind,
    with_policy,
)
from twofold.domain.module import Module
from twofold.domain.policy import Later, Policy
from twofold.errors import Rejected, Unavailable
from twofold.synchronization.due_commands import DueCommands
from twofold.synchronization.due_queue import DueQueue
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender
from twofold.synchronization.reactor import Reactor
from twofold.testing import FrozenWorld


async def test_a_command_for_later_survives_restarts_and_is_sent_when_due(tmp_path: Path) -> None:
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
            "what became due while nothing ran is sent at the start"
        )


async def test_what_is_overdue_after_the_clock_was_put_forward_is_sent_within_a_minute(tmp_path: Path) -> None:
    class JumpingWorld(FrozenWorld):
        """The wall clock may be put forward. The monotonic clock does not see it."""

        ahead = timedelta()

        def now(self) -> datetime:
            return super().now() + self.ahead

    world = JumpingWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await app.send(Count(["a"], 10))
        await passes(world, app, 1.0)
        world.ahead = timedelta(hours=2)
        await passes(world, app, 59.0)
        assert await answers(app) == [MARK + 10]


async def test_what_falls_due_while_another_is_being_sent_is_sent_as_well(tmp_path: Path) -> None:
    """While a command is being sent, earlier ones become due. None is lost, none is sent twice."""
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        running = app._running
        assert running is not None
        reactor: Any = running.synchronization.workers[-1].follower
        sent: list[int] = []
        send = reactor._due._sender._send
        late = asyncio.Event()

        async def slowly(command: Count, command_id: str, *rest: Any) -> Any:
            sent.append(command.by)
            if command.by == MARK + 10:
                await late.wait()
            return await send(command, command_id, *rest)

        reactor._due._sender._send = slowly
        await app.send(Count(["a"], 10))
        await passes(world, app, 90)
        assert sent == [MARK + 10]
        # Two commands go to the front of the queue while the first is being sent: neither may be mistaken for it.
        await app.send(Count(["a"], 99))
        await app.send(Count(["a"], 98))
        await passes(world, app, 2.0)
        assert sent == [MARK + 10, MARK + 99, MARK + 98]
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
        reactor: Any = running.synchronization.workers[-1].follower
        await app.send(Count(["a"], 99))

        async def rejects(*_: Any, **__: Any) -> None:
            raise Rejected("no")

        monkeypatch.setattr(reactor._due._sender, "_send", rejects)
        await passes(world, app, 2)
        assert [k for k in await running.write_store.rows("policy:answers") if k.startswith("due:")] == []
        assert (await policy_of(app)).parked == ()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 60)
        assert await answers(app) == []


async def test_a_due_command_that_fails_is_shown_stops_no_other_and_is_sent_by_repaired_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        running = app._running
        assert running is not None
        reactor: Any = running.synchronization.workers[-1].follower
        send = reactor._due._sender._send

        async def breaks(command: Count, *args: Any, **options: Any) -> Any:
            if command.by == MARK + 99:
                raise ZeroDivisionError("a decision with a bug")
            return await send(command, *args, **options)

        monkeypatch.setattr(reactor._due._sender, "_send", breaks)
        await app.send(Count(["a"], 99))
        await app.send(Count(["a"], 98))
        await passes(world, app, 3)
        assert await answers(app) == [MARK + 98]
        (parked,) = (await policy_of(app)).parked
        assert "a decision with a bug" in parked.error
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 1.0)
        assert await answers(app) == [MARK + 98, MARK + 99]
        assert (await policy_of(app)).parked == ()


async def test_a_due_command_that_is_never_accepted_delays_no_other_and_is_shown_as_parked(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("no")], ids=["away", "no"])
async def test_a_due_command_that_is_skipped_while_it_is_being_sent_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("twofold.synchronization.due_commands._ATTEMPTS_BEFORE_PARKED", 1)

    async def answer(event: Counted) -> Later | None:
        return Later(Count(["answers"], MARK + event.by), timedelta(0)) if event.by < MARK else None

    async with app_in(tmp_path, with_policy(answer)) as app:
        reactor = next(w.follower for w in app._running.synchronization.workers if isinstance(w.follower, Reactor))  # type: ignore[union-attr]
        going, go, tries = asyncio.Event(), asyncio.Event(), 0

        async def away(*_: Any, **__: Any) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise Unavailable("away")
            going.set()
            await go.wait()
            raise error

        monkeypatch.setattr(reactor._due._sender, "_send", away)
        await app.send(Count(["a"], 1))
        async with asyncio.timeout(30):
            await going.wait()
        (key,) = await parked_keys(app)
        act = await app.projections.skip("answers", key)
        assert (act.done, act.outcome) == (True, "The command is not sent any more.")
        go.set()
        # Another command is due after it: once that is sent, the first has come back to the queue, or not.
        monkeypatch.setattr(reactor._due._sender, "_send", app._running.commands.handle)  # type: ignore[union-attr]
        await app.send(Count(["a"], 2))

        async def answered() -> bool:
            return await answers(app) == [MARK + 2]

        await until(answered, "the other one is sent")
        assert (tries, await parked_keys(app), reactor._due.queue.keys) == (2, [], set())  # type: ignore[attr-defined]


async def test_an_error_of_the_queue_is_shown_and_what_is_due_is_sent_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, tries = FrozenWorld(), list[float]()

    def breaks(_: DueQueue) -> None:
        tries.append(world.monotonic())
        raise RuntimeError("a bug")

    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        for by in (1, 2):
            await app.send(Count(["a"], by))
        await passes(world, app, 10)
        with monkeypatch.context() as patched:
            patched.setattr(DueQueue, "pop", breaks)
            await passes(world, app, 300)
            status = await policy_of(app)
            assert (status.state, status.error) == (
                "retrying",
                "Commands that are due are not sent: RuntimeError: a bug",
            )
            assert 8 <= len(tries) <= 12, "with growing delays"
        await passes(world, app, 60)
        assert await answers(app) == [MARK + 2, MARK + 1]
        status = await policy_of(app)
        assert (status.state, status.error) == ("up-to-date", None)


@pytest.mark.parametrize("where", [(PolicyStorage, "is_due"), (DueCommands, "_send_later")], ids=["store", "own"])
async def test_a_due_command_with_which_something_unexpected_happens_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    world, real, sent = FrozenWorld(), getattr(*where), CommandSender.send_due
    broken, away = [True], [True]

    def breaks(*rest: Any) -> Any:
        if broken:
            broken.clear()
            raise RuntimeError("a bug")
        return real(*rest)

    async def send_due(self: CommandSender, *rest: Any) -> Any:
        if away:
            raise Unavailable("away")
        return await sent(self, *rest)

    monkeypatch.setattr(*where, breaks)
    monkeypatch.setattr(CommandSender, "send_due", send_due)
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await app.send(Count(["a"], 1))
        await passes(world, app, 99.5)
        assert not broken
        away.clear()
        await passes(world, app, 10)
        assert await answers(app) == [MARK + 1]
