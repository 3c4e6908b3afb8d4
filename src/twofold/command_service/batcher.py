"""Group commit: what was queued while one batch was written is the next batch. There is no timer."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from twofold.command_service.folds import Folds
from twofold.command_service.pending import PendingAppend
from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.world import World
from twofold.write_store.port import Append, Appended, Outcome, WriteStore, is_written

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
        self._task: asyncio.Task[None] | None = None
        self._closing = False
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
            queue = [*self._queue]
            self._queue.clear()
            self._fail(queue, Unavailable("The command service stopped before it wrote this command. Send it again."))

    async def _write_batches(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._next_batch()
            if not batch:
                continue
            try:
                outcomes = await self._write_store.append([waiting.append for waiting in batch])
            except TwofoldError as error:
                if not batch[0].alone:
                    self.refusal = str(error)
                self._fail(batch, error)
                continue
            except asyncio.CancelledError:
                self._fail(batch, Unavailable("The command service was stopped; the command may have been written."))
                raise
            except Exception as error:
                log.exception("The write store raised an unexpected error")
                self.refusal = f"The write store failed ({error!r}); the command may have been written."
                self._fail(batch, Unavailable(self.refusal))
                continue
            if any(is_written(outcome) for outcome in outcomes):
                self.written_at, self.refusal = self._world.monotonic(), None
            self._answer(batch, outcomes)
            # Let these callers queue their next appends before the next batch is taken.
            await self._world.sleep(0)

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
