"""A policy's command has one effect, although its command id is forgotten or used again: its own rows see to that."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, Ended, counters
from tests.synchronization.policy_helpers import (
    MARK,
    answers,
    nothing_parked,
    parked_keys,
    passes,
    policy_of,
    react_to,
    with_policy,
)
from twofold.app import App
from twofold.domain.envelope import Metadata, Origin
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.policy import Later, Policy
from twofold.errors import Conflict, Unavailable
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender
from twofold.synchronization.reactor import Reactor
from twofold.testing import FrozenWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, RowWrite

Answer = Callable[[Counted], Awaitable[Any]]


async def now(event: Counted) -> Count | None:
    return Count(["answers"], MARK + event.by) if event.by < MARK else None


async def later(event: Counted) -> Later | None:
    return Later(Count(["answers"], MARK + event.by), timedelta(seconds=5)) if event.by < MARK else None


async def in_2010(event: Counted) -> Later | None:
    answer = Later(Count(["answers"], MARK + event.by), timedelta(days=40 * 366))
    return answer if event.by < MARK else None


async def mixed(event: Counted) -> list[Count | Later]:
    if event.by >= MARK:
        return []
    return [
        Count(["answers"], MARK + event.by),
        Later(Count(["answers"], 2 * MARK + event.by), timedelta(seconds=5)),
        Count(["answers"], 3 * MARK + event.by),
        Later(Count(["answers"], 4 * MARK + event.by), timedelta(seconds=9)),
    ]


def forget_all_command_ids(folder: Path) -> None:
    connection = apsw.Connection(str(folder / "log.db"))
    connection.execute("delete from commands")
    connection.close()


def policy_rows_are_lost(monkeypatch: pytest.MonkeyPatch, lost: Callable[[Sequence[RowWrite]], bool]) -> None:
    """Let appends without a command fail where they hold such rows, as if the process had died before them."""
    real = PolicyStorage.append

    async def append(self: PolicyStorage, *rows: RowWrite) -> None:
        if lost(rows):
            raise Unavailable("died before this append")
        await real(self, *rows)

    monkeypatch.setattr(PolicyStorage, "append", append)


@pytest.mark.parametrize("answer", [now, later, mixed])
async def test_a_crash_after_the_command_repeats_no_effect_though_all_command_ids_are_forgotten(
    tmp_path: Path, answer: Answer
) -> None:
    expected = len(await answer(Counted(["a"], 1))) if answer is mixed else 1
    world = FrozenWorld()
    with pytest.MonkeyPatch.context() as patched:
        # Neither a checkpoint alone, nor the deletion of a due command alone, is ever written.
        ready: list[bool] = []
        policy_rows_are_lost(
            patched, lambda rows: bool(ready) and not (answer is later and any(row.expected == 0 for row in rows))
        )
        async with app_in(tmp_path, with_policy(answer), world=world, poll_seconds=900) as app:
            ready.append(True)
            await app.send(Count(["a"], 1))
            await passes(world, app, 20.0)
            before = await answers(app)
            assert before, "the effect came before the crash"
    forget_all_command_ids(tmp_path)
    async with app_in(tmp_path, with_policy(answer), world=world, poll_seconds=900) as app:
        await passes(world, app, 20.0)
        assert len(await answers(app)) == len(set(await answers(app))) == expected


async def test_a_policy_reacts_to_an_event_whose_id_was_used_before_and_goes_on(tmp_path: Path) -> None:
    """A caller uses a key again after it is forgotten, while the command of the first event is still due."""

    async def in_a_month(event: Counted) -> list[Any]:
        if event.by >= MARK:
            return []
        return [Later(Count(["later"], 2 * MARK + event.by), timedelta(days=30)), Count(["now"], MARK + event.by)]

    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(in_a_month), world=world, poll_seconds=900) as app:
        await app.send(Count(["a"], 1), command_id="monthly")
        await passes(world, app, 1.0)
    forget_all_command_ids(tmp_path)
    async with app_in(tmp_path, with_policy(in_a_month), world=world, poll_seconds=900) as app:
        receipt = await app.send(Count(["a"], 1), command_id="monthly")
        assert not receipt.repeated
        await passes(world, app, 1.0)
        status = await policy_of(app)
        assert (status.lag, status.state, status.parked) == (0, "up-to-date", ())
        assert await answers(app) == [MARK + 1, MARK + 1]
    world = FrozenWorld(world.now() + timedelta(days=31))
    async with app_in(tmp_path, with_policy(in_a_month), world=world, poll_seconds=900) as app:
        await passes(world, app, 1.0)
        assert await answers(app) == [MARK + 1, MARK + 1, 2 * MARK + 1, 2 * MARK + 1]


async def test_a_parked_event_sends_on_its_retry_only_what_was_not_sent_before_it_was_parked(tmp_path: Path) -> None:
    broken = [True]

    async def three(event: Counted | Ended) -> list[Any]:
        if isinstance(event, Ended) or event.by >= MARK:
            return []
        # An id with a null character cannot be a tag.
        second = Count(["\0" if broken else "b"], 2 * MARK + event.by)
        return [Count(["a"], MARK + event.by), second, Count(["c"], 3 * MARK + event.by)]

    module = counters(policies=[Policy("answers", three)])
    async with app_in(tmp_path, module, fold_retries=0) as app:
        await app.send(Count(["a"], 1))
        await react_to(app)
        assert (await parked_keys(app), await answers(app)) == (["all"], [MARK + 1])
        forget_all_command_ids(tmp_path)
        act = await app.projections.retry("answers", "all")
        assert "still fails" in act.outcome
    forget_all_command_ids(tmp_path)
    broken.clear()
    async with app_in(tmp_path, module) as app:
        await nothing_parked(app)
        assert await answers(app) == [MARK + 1, 2 * MARK + 1, 3 * MARK + 1]


class Node:
    """One of several processes that run the policy over one log, without leases between them."""

    def __init__(self, log: MemoryWriteStore, answer: Answer) -> None:
        self.log = log
        self.world = FrozenWorld()
        self.app = App(with_policy(answer), world=self.world)
        storage = PolicyStorage("answers", log, self.append, self.world)
        sender = CommandSender("answers", self.app.wiring.commands, self.app.messages, self.send, 100, self.world)
        self.reactor = Reactor(self.app.wiring.policies["answers"], storage, self.app.events, sender, self.world)
        self.lost_answers = 0

    async def append(self, append: Append) -> Any:
        (outcome,) = await self.log.append([append])
        return outcome

    async def send(self, command: Any, command_id: str, origin: Origin, rows: Sequence[RowWrite]) -> Any:
        event = self.app.events.encode(Counted(command.counters, command.by), command_id, 0)
        append = Append(Metadata(1, command_id, command_id), (event,), (), command_id, b"", tuple(rows))
        outcome = await self.append(append)
        if isinstance(outcome, Conflict):
            raise outcome
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unavailable("the connection broke after the command was written")
        return outcome

    async def run(self) -> None:
        """Take the log once, as a worker does: after a Conflict the checkpoint is read again."""
        position = await self.reactor.open()
        head = (await self.log.read(NO_EVENTS)).head
        async with asyncio.timeout(30):
            while self.reactor._storage.position < head:
                try:
                    await self.reactor.retry_pending(position)
                    page = await self.log.read(self.reactor.query, position)
                    await self.reactor.apply(page, position)
                    position = page.upto
                    await self.world.advance(0.1)
                except Conflict:
                    position = await self.reactor.open()

    async def counted(self) -> list[int]:
        return [self.app.events.decode(event).by for event in (await self.log.read(ALL_EVENTS)).events]


async def a_log_to_react_to() -> MemoryWriteStore:
    log = MemoryWriteStore()
    # The policy exists before the events.
    first = Node(log, now)
    await first.reactor.open()
    await first.reactor.close()
    for by in (1, 2, 3):
        event = first.app.events.encode(Counted(["a"], by), f"c-{by}", 0)
        await log.append([Append(Metadata(1, "c", "c"), (event,))])
    return log


async def test_a_node_that_was_paused_for_longer_than_ids_are_remembered_repeats_no_effect() -> None:
    log = await a_log_to_react_to()
    paused, other = Node(log, now), Node(log, now)
    at = await paused.reactor.open()
    page = await log.read(paused.reactor.query, at)
    await other.run()
    log._commands.clear()
    await paused.reactor.apply(page, at)

    async def refused() -> bool:
        try:
            await paused.reactor.retry_pending(at)
        except Conflict:
            return True
        return False

    await until(refused, "the paused node is refused")
    assert await other.counted() == [1, 2, 3, MARK + 1, MARK + 2, MARK + 3]
    await paused.run()
    assert await other.counted() == [1, 2, 3, MARK + 1, MARK + 2, MARK + 3]
    await paused.reactor.close()
    await other.reactor.close()


@pytest.mark.parametrize("forgotten", [False, True], ids=["ids are known", "ids are forgotten"])
async def test_a_command_whose_answer_was_lost_is_not_sent_again(forgotten: bool) -> None:
    log = await a_log_to_react_to()
    node = Node(log, now)
    node.lost_answers = 2
    if forgotten:
        send = node.send

        async def send_and_forget(*args: Any, **options: Any) -> Any:
            try:
                return await send(*args, **options)
            finally:
                log._commands.clear()

        node.reactor._reaction._sender._send = send_and_forget
    await node.run()
    assert await node.counted() == [1, 2, 3, MARK + 1, MARK + 2, MARK + 3]
    await node.reactor.close()


async def test_a_due_command_is_sent_by_one_of_two_nodes_though_ids_are_forgotten() -> None:
    log = await a_log_to_react_to()
    first, second = Node(log, in_2010), Node(log, in_2010)
    await first.run()
    await second.reactor.open()
    for node in (first, second):
        assert len(node.reactor._due.queue.keys) == 3
        await node.world.advance(11 * 366 * 86_400)
        assert node.reactor._due.queue.keys == set()
        log._commands.clear()
    assert sorted(await first.counted()) == [1, 2, 3, MARK + 1, MARK + 2, MARK + 3]
    assert await log.rows("policy:answers") == {}
    assert first.reactor._due.parked == second.reactor._due.parked == {}
    await first.reactor.close()
    await second.reactor.close()
