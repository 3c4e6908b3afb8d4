"""Group commit: what was queued while one batch was written is the next batch. There is no timer."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from twofold.command_service.folds import Folds
from twofold.errors import TwofoldError, Unavailable
from twofold.world import World
from twofold.write_store.port import Append, Appended, Outcome, WriteStore

log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    append: Append
    events: Sequence[object]
    size: int
    answer: "asyncio.Future[Outcome]"
    failed: Callable[[], None]


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

    async def append(
        self, append: Append, events: Sequence[object] = (), failed: Callable[[], None] = lambda: None
    ) -> Outcome:
        """The outcome of `append`, which writes `events` in encoded form.

        `failed` is called where it was not written, or may not have been, before any caller of the batch continues.
        Unavailable where too many commands wait, or the store cannot be reached.
        """
        if self._closing or self._task is None:
            raise Unavailable("The command service is stopping. Send the command again.")
        # Appends without a command id are the runtime's own: leases, checkpoints, heartbeats. If they were refused,
        # other nodes would take over the work of this node just because it is busy.
        if len(self._queue) >= self._queue_limit and append.command_id is not None:
            raise Unavailable(
                f"{len(self._queue)} commands are waiting to be written. Send the command again in a moment."
            )
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        size = sum(len(event.payload) for event in append.events)
        if self._queue and self._queue_size + size > self._queue_size_limit and append.command_id is not None:
            raise Unavailable(
                f"{self._queue_size} bytes of events are waiting to be written, and `queue_bytes` allows "
                f"{self._queue_size_limit}. Send the command again in a moment."
            )
        self._queue_size += size
        self._queue.append(_Waiting(append, events, size, answer, failed))
        self._wake.set()
        return await answer

    async def _run(self) -> None:
        try:
            await self._write_batches()
        finally:
            # Also after a failure or a cancellation: no caller may wait for a batch that is never written.
            self._closing = True
            _answer_all(
                self._queue,
                Unavailable("The command service stopped before it wrote this command. Send it again."),
            )
            self._queue.clear()

    async def _write_batches(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._next_batch()
            try:
                outcomes = await self._write_store.append([waiting.append for waiting in batch])
            except TwofoldError as error:
                self.refusal = str(error)
                _answer_all(batch, error)
                continue
            except asyncio.CancelledError:
                _answer_all(batch, Unavailable("The command service was stopped; the command may have been written."))
                raise
            except Exception as error:
                log.exception("The write store raised an unexpected error")
                self.refusal = f"The write store failed ({error!r}); the command may have been written."
                _answer_all(batch, Unavailable(self.refusal))
                continue
            if any(isinstance(outcome, Appended) and not outcome.repeated for outcome in outcomes):
                self.written_at, self.refusal = self._world.monotonic(), None
            answered = list(zip(batch, outcomes, strict=True))
            for waiting, outcome in answered:
                if isinstance(outcome, Appended) and not outcome.repeated:
                    self._folds.wrote(waiting.append, waiting.events, outcome)
                else:
                    waiting.failed()
            # Callers that have to decide again continue first, before the next commands of the others. If not, commands
            # for a busy consistency boundary would lose again and again.
            for waiting, outcome in sorted(answered, key=lambda pair: isinstance(pair[1], Appended)):
                if not waiting.answer.done():
                    waiting.answer.set_result(outcome)
            # Let these callers queue their next appends before the next batch is taken.
            await self._world.sleep(0)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._commands:
            if batch and size + self._queue[0].size > self._size:
                break
            batch.append(self._queue.popleft())
            size += batch[-1].size
        self._queue_size -= size
        return batch


def _answer_all(batch: Iterable[_Waiting], error: TwofoldError) -> None:
    for waiting in batch:
        waiting.failed()
        if not waiting.answer.done():
            # Each caller raises its own error: a shared one would collect the tracebacks of all.
            own = Unavailable(*error.args)
            own.__cause__ = error
            waiting.answer.set_exception(own)
