"""Group commit: what was queued while one batch was written is the next batch. There is no timer."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from twofold.command_service.command_observer import UNOBSERVED, CommandObserver
from twofold.command_service.contention import Contention
from twofold.command_service.fold_reads import FoldedState, conditions
from twofold.command_service.folds import Folds
from twofold.command_service.pending import PendingAppend
from twofold.command_service.turns import Turns
from twofold.domain.decision import Fold
from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.world import World
from twofold.write_store.port import Append, Appended, Outcome, Slice, WriteStore, is_written
from twofold.write_store.reserving import append_reserved

log = logging.getLogger(__name__)


def _ignore(again: bool) -> None:
    """Nobody needs to know that an append failed."""


class _Waiting(msgspec.Struct, eq=False):
    append: Append
    pending: PendingAppend | None
    size: int
    answer: "asyncio.Future[Outcome]"
    failed: Callable[[bool], None]
    alone: bool = False


class Batcher:
    """The one writer of a process. Callers wait for their own outcome; cancelling one does not change the batch."""

    def __init__(
        self,
        write_store: WriteStore,
        folds: Folds,
        world: World,
        *,
        commands: int,
        size: int,
        queue: int,
        queue_size: int,
    ) -> None:
        self._write_store = write_store
        self._folds = folds
        self._world = world
        self._commands = commands
        self._size = size
        self._queue_limit = queue
        self._queue_size_limit = queue_size
        self._queue_size = 0
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self.turns = Turns()
        self.contention = Contention(self.turns, world)
        self.contention.wanted = self._wake.set
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.observer: CommandObserver = UNOBSERVED
        self.written_at: float | None = None
        """When the write store took a batch last, by the monotonic clock; None if it never did."""
        self.refusal: str | None = None
        """Why it refused the last batch, in a sentence; None if it took it."""

    def start(self) -> None:
        """Start writing."""
        self._task = asyncio.create_task(self._run(), name="twofold-batcher")

    async def stop(self) -> None:
        """Write what is queued, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def append(self, append: Append) -> Outcome:
        """The outcome of an append that no decision made, and that writes no events.

        Unavailable where too many commands wait, or the store cannot be reached.
        """
        self.refuse(append, 0)
        return await self._put(append, None, 0, _ignore)

    async def append_alone(self, append: Append) -> Outcome:
        """The same in a commit of its own: no command fails with it, and it is not reported if the store refuses it."""
        self.refuse(append, 0)
        answer = self._put(append, None, 0, _ignore)
        self._queue[-1].alone = True
        return await answer

    def put(self, pending: PendingAppend, size: int, failed: Callable[[bool], None]) -> "asyncio.Future[Outcome]":
        """The future outcome of a decided append. It is queued when this returns. Call `refuse` before.

        `size` is the bytes of its events. `failed` is called where it was not written, or may not have been, before any
        caller of the batch continues: with True if it has to be decided again.
        """
        return self._put(pending.append, pending, size, failed)

    def refuse(self, append: Append, size: int) -> None:
        """Unavailable where an append with events of `size` bytes cannot be queued."""
        if self._closing or self._task is None:
            raise Unavailable("The command service is stopping. Send the command again.")
        # Appends without a command id are the runtime's own: leases, checkpoints, heartbeats. If they were refused,
        # other nodes would take over the work of this node just because it is busy.
        if append.command_id is None:
            return
        if len(self._queue) >= self._queue_limit:
            raise Unavailable(
                f"{len(self._queue)} commands are waiting to be written. Send the command again in a moment."
            )
        if self._queue and self._queue_size + size > self._queue_size_limit:
            raise Unavailable(
                f"{self._queue_size} bytes of events are waiting to be written, and `queue_bytes` allows "
                f"{self._queue_size_limit}. Send the command again in a moment."
            )

    def _put(
        self, append: Append, pending: PendingAppend | None, size: int, failed: Callable[[bool], None]
    ) -> "asyncio.Future[Outcome]":
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue_size += size
        self._queue.append(_Waiting(append, pending, size, answer, failed))
        self._wake.set()
        return answer

    async def _run(self) -> None:
        try:
            await self._write_batches()
        finally:
            # Also after a failure or a cancellation: no caller may wait for a batch that is never written.
            self._closing = True
            self.contention.forget()
            queue = [*self._queue]
            self._queue.clear()
            self._fail(queue, Unavailable("The command service stopped before it wrote this command. Send it again."))

    async def _write_batches(self) -> None:
        while True:
            if self._closing:
                # Nothing more is queued: the commands that wait for a reservation are refused.
                self.contention.forget()
            batch: list[_Waiting] = []
            if self.contention.waits and self._may_reserve():
                await self._write(batch, self._append_reserved(batch))
                self.contention.fill()
            elif self._queue:
                if self.contention.waits:
                    self.contention.drain()
                batch = self._next_batch()
                if batch:
                    await self._write(batch, self._write_store.append([waiting.append for waiting in batch]))
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _may_reserve(self) -> bool:
        """Whether what is queued leaves room in the next batch for the commands that wait for a reservation."""
        return (
            2 * len(self._queue) <= self._commands
            and 2 * self._queue_size <= self._size
            and not any(waiting.alone for waiting in self._queue)
        )

    async def _write(self, batch: Sequence[_Waiting], append: Awaitable[Sequence[Outcome]]) -> None:
        """Answer a batch with the outcomes of `append`, or with its error."""
        began = self._world.monotonic()
        try:
            outcomes = await append
        except TwofoldError as error:
            if batch and not batch[0].alone:
                self.refusal = str(error)
            self._fail(batch, error)
            return
        except asyncio.CancelledError:
            self._fail(batch, Unavailable("The command service was stopped; the command may have been written."))
            raise
        except Exception as error:
            log.exception("The write store raised an unexpected error")
            self.refusal = f"The write store failed ({error!r}); the command may have been written."
            self._fail(batch, Unavailable(self.refusal))
            return
        if batch:
            self.observer.appended([waiting.append for waiting in batch], outcomes, self._world.monotonic() - began)
        if any(is_written(outcome) for outcome in outcomes):
            self.written_at, self.refusal = self._world.monotonic(), None
        self._answer(batch, outcomes)
        # Let these callers queue their next appends before the next batch is taken.
        await self._world.sleep(0)

    async def _append_reserved(self, batch: list[_Waiting]) -> Sequence[Outcome]:
        """Reserve the log, let the commands that wait for that decide, and write what is queued then: the outcomes.

        What is written is in `batch`.
        """
        folded = self._folds.cached_states(self.contention.needed())

        async def decide(page: Slice | None) -> Sequence[Append]:
            batch.extend(await self._decided_reserved(folded, page))
            return [waiting.append for waiting in batch]

        try:
            return await append_reserved(self._write_store, conditions(folded), decide)
        except BaseException:
            if not batch:
                # Without a reservation they are decided on what is known, and get the error of their own append.
                self.contention.forget()
            raise

    async def _decided_reserved(self, folded: Mapping[Fold, FoldedState], page: Slice | None) -> list[_Waiting]:
        """Let the waiting commands decide, now that the log is reserved: the batch to write."""
        if page is None:
            self.contention.forget()
            return self._next_batch()
        try:
            changed = await self._folds.add(folded, page)
        except Exception:
            # An event cannot be read or folded: who needs it reads it, and gets the error.
            log.debug("New events could not be folded", exc_info=True)
            self.contention.forget()
            return self._next_batch()
        if page.upto < page.head:
            # There is more than a page: it is read first, in the next round, and nobody else has to wait meanwhile.
            return self._next_batch()
        await self.contention.decide(
            changed, lambda: len(self._queue) >= self._commands or self._queue_size >= self._size
        )
        return self._next_batch()

    def _next_batch(self) -> list[_Waiting]:
        """What is written next. Appends of the runtime come first: their guards differ, and a batch has one set."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._commands:
            if batch and (size + self._queue[0].size > self._size or self._queue[0].alone or batch[-1].alone):
                break
            batch.append(self._queue.popleft())
            size += batch[-1].size
        self._queue_size -= size
        ready = [waiting for waiting in batch if waiting.pending is None]
        for waiting in batch:
            if waiting.pending is not None:
                append = self._folds.placed_in_batch(waiting.pending, len(ready))
                if append is None:
                    self._refuse_undermined(waiting)
                else:
                    waiting.append = append
                    ready.append(waiting)
        return ready

    def _answer(self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        answered = list(zip(batch, outcomes, strict=True))
        not_written = False
        for waiting, outcome in answered:
            self._folds.settle(waiting.pending, outcome)
            if not isinstance(outcome, Appended) or outcome.repeated:
                not_written = True
                waiting.failed(isinstance(outcome, Conflict) and not waiting.answer.done())
        if not_written:
            self._remove_undermined()
            # Callers that have to decide again continue first, before the next commands of the others.
            answered.sort(key=lambda pair: isinstance(pair[1], Appended))
        for waiting, outcome in answered:
            if not waiting.answer.done():
                waiting.answer.set_result(outcome)

    def _fail(self, batch: Iterable[_Waiting], error: TwofoldError) -> None:
        """Answer these with an error. What rests on them is decided again."""
        batch = list(batch)
        for waiting in batch:
            self._folds.settle(waiting.pending, None)
            waiting.failed(False)
        self._remove_undermined()
        for waiting in batch:
            if not waiting.answer.done():
                # Each caller raises its own error: a shared one would collect the tracebacks of all.
                own = Unavailable(*error.args)
                own.__cause__ = error
                waiting.answer.set_exception(own)

    def _remove_undermined(self) -> None:
        """Take from the queue what rests on an append that was not written, in order."""
        kept: deque[_Waiting] = deque()
        for waiting in self._queue:
            if waiting.pending is not None and waiting.pending.undermined:
                self._queue_size -= waiting.size
                self._refuse_undermined(waiting)
            else:
                kept.append(waiting)
        self._queue = kept

    def _refuse_undermined(self, waiting: _Waiting) -> None:
        conflict = Conflict("An append that this decision rests on was not written.")
        self._folds.settle(waiting.pending, conflict)
        waiting.failed(not waiting.answer.done())
        if not waiting.answer.done():
            waiting.answer.set_result(conflict)
