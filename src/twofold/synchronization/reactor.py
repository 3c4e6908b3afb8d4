"""The follower that runs a policy: it takes the events in order, answers them, and moves the checkpoint."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from twofold.codec import EventCodec
from twofold.domain.events import Position
from twofold.domain.policy import BoundPolicy
from twofold.errors import Conflict, InvalidMessage, Unavailable
from twofold.read_store.port import Parked
from twofold.signal import Signal
from twofold.synchronization.causation import TooDeep
from twofold.synchronization.due_commands import DueCommands
from twofold.synchronization.due_queue import DueQueue
from twofold.synchronization.follower import FollowerPaused, Skips, not_parked
from twofold.synchronization.follower_observer import UNOBSERVED, FollowerObserver
from twofold.synchronization.outage import Outage
from twofold.synchronization.policy_pause import pause_rows
from twofold.synchronization.policy_saver import PolicySaver, SkippedEvent
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender, Reaction
from twofold.synchronization.reaction_failures import RunnerLimits
from twofold.synchronization.reaction_runner import ReactionParts, ReactionRunner
from twofold.world import World
from twofold.write_store.port import RowWrite, Slice


class ReactorOptions(NamedTuple):
    """`retry_parked`: whether to retry what is parked at the start. `moved` fires when the checkpoint has moved.

    `observer` observes each event that is answered.
    """

    limits: RunnerLimits = RunnerLimits()
    retry_parked: bool = True
    moved: Signal | None = None
    observer: FollowerObserver = UNOBSERVED


class Reactor:
    """Runs a policy once for each event: many keys at the same time, the events of one key in order.

    It goes on while pages are read, and `apply` only hands it more events. The checkpoint, the parked keys and the
    commands due later are rows of the write store: read models may be deleted and rebuilt, but what a policy has done
    must not happen again. Events that come again after a crash send the commands that were not sent, and effects
    outside with the same key.
    """

    def __init__(
        self,
        policy: BoundPolicy,
        storage: PolicyStorage,
        events: EventCodec,
        sender: CommandSender,
        world: World,
        options: ReactorOptions | None = None,
    ) -> None:
        limits, self._retry_parked, moved, observer = options or ReactorOptions()
        self.name = policy.name
        self.changed = Signal()
        self._from_start = policy.from_start
        self._storage = storage
        self._world = world
        self._reaction = Reaction(policy, storage.log_id, events, sender)
        queue = DueQueue()
        self._saver = PolicySaver(storage, queue, world, moved or Signal())
        self._due = DueCommands(storage, queue, self._saver, sender, world, limits.policy_concurrency)
        parts = ReactionParts(self._reaction, storage, self._saver, queue, observer)
        self._runner = ReactionRunner(parts, world, limits, self.changed)
        self._tasks: list[asyncio.Task[None]] = []
        self.query = self._reaction.query

    @property
    def full(self) -> bool:
        """Whether it takes no more events now. `changed` fires when it does."""
        return self._runner.full

    @property
    def held(self) -> Callable[[], bool]:
        """Whether this node may still believe that it holds its leases. Without them no reaction is started."""
        return self._runner.held

    @held.setter
    def held(self, held: Callable[[], bool]) -> None:
        self._runner.held = held

    @property
    def stopped(self) -> Exception | None:
        """The error for which it answers nothing more until it is opened again; None if there is none."""
        return self._runner.stopped

    @property
    def outage(self) -> Outage | None:
        """What the policy calls is away; None if it is not."""
        return self._runner.outage

    @property
    def error(self) -> str | None:
        """Why what it has done is not saved, or what is due not sent; None if all works."""
        return self._saver.error or self._due.error

    async def open(self) -> Position:
        await self._end_tasks()
        position = await self._storage.open(from_start=self._from_start)
        self._reaction.secret = await self._storage.secret()
        self._saver.open(position, await self._storage.rejected())
        self._due.open(await self._storage.due())
        self._runner.open(self._storage.parked(), retry=self._retry_parked)
        for name, work in (("save", self._saver.run), ("reactions", self._runner.run)):
            self._tasks.append(asyncio.create_task(self._guarded(work), name=f"twofold-{self.name}-{name}"))
        return position

    async def apply(self, page: Slice, before: Position) -> None:
        await self._check()
        for recorded in page.events:
            # After a failure a page may come again.
            if recorded.position > self._saver.window.upto:
                self._runner.take(recorded)
        self._saver.read(page.upto)

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        # A reaction that fails does not fail the page: this is an error of the follower itself.
        raise error

    async def retry_pending(self, at: Position) -> float | None:
        await self._check()
        self._runner.go_on()
        return None

    async def retry(self, key: str, at: Position) -> str | asyncio.Task[str]:
        await self._check()
        if key in self._due.parked:
            await self._due.retry(key)
            return "It is sent again now."
        if key not in self._runner.parked:
            raise InvalidMessage(not_parked(self.name, key, await self.parked()), field="key")
        return self._runner.retry(key) or "It is being retried now."

    async def repair(self, key: str, at: Position) -> str:
        raise InvalidMessage(f"'{self.name}' is a policy. It has no rows to repair.", field="name")

    async def skip(self, key: str, record: Sequence[RowWrite]) -> None:
        """Skip what is parked as `key`, and write `record`: both, or nothing and Conflict."""
        await self._check()
        if key in self._due.parked:
            await self._storage.append(self._storage.delete_due(key), *record)
            self._due.skip(key)
            return
        position = self._runner.parked[key].position
        lane, reaction = await self._runner.pass_over(key, position)
        try:
            await self._save_now(*record, skip=SkippedEvent(key, position, reaction))
        except BaseException:
            self._runner.not_passed_over(lane)
            raise
        self._runner.passed_over(lane, reaction)

    def add_skips(self, skips: Skips) -> None:
        """Do nothing: `skip` has deleted what is parked."""

    def parked_at(self, key: str) -> Position | None:
        """The position of the event that a `skip` of this key skips; 0 for a due command, None if nothing is parked."""
        parked = (self._runner.parked | self._due.parked).get(key)
        return None if parked is None else parked.position

    async def parked(self) -> tuple[Parked, ...]:
        return (*self._runner.parked.values(), *self._due.parked.values())

    async def close(self) -> None:
        await self._due.close()
        opened = bool(self._tasks)
        await self._end_tasks()
        if opened and self._runner.stopped is None:
            # What is answered need not be answered again by the next owner. If it cannot be saved, it is.
            with suppress(Conflict, Unavailable):
                await self._saver.save()

    async def _end_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await self._runner.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the worker notes it, and opens the follower again
            self._runner.stop(error)

    async def _save_now(self, *rows: RowWrite, skip: SkippedEvent | None = None) -> None:
        """Save what is pending, and rows with it."""
        try:
            await self._saver.save(*rows, skip=skip)
        except Conflict as error:
            try:
                # It may be one of the rows that was not as expected, and nothing else.
                await self._storage.check_owner()
            except Conflict:
                self._runner.stop(error)
            raise

    async def _check(self) -> None:
        """Raise why nothing more is answered, if that is so."""
        stopped = self._runner.stopped
        if isinstance(stopped, TooDeep):
            await self._pause(stopped)
        if stopped is not None:
            raise stopped

    async def _pause(self, error: TooDeep) -> NoReturn:
        """Pause before the event that the answer of which is too deep, and save what was done before it."""
        await self._runner.close()
        reason = await self._storage.described(error)
        await self._save_now(*pause_rows(self.name, error.recorded.position, reason, self._world))
        # A storm may go on by due commands. They stay in the write store until the policy is resumed.
        await self._due.close()
        raise FollowerPaused(reason) from error
