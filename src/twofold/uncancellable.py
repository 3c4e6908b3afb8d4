"""Work that runs to its end even if the caller is cancelled.

A request that is interrupted leaves a connection with half an answer, or loses the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twofold.errors import Unavailable

T = TypeVar("T")
P = ParamSpec("P")


class UncancellableTasks:
    """Tasks that are never cancelled, and the one task that closes what they use, once all of them are done.

    `closed` is the sentence of the error for what comes after `close`.
    """

    def __init__(self, closed: str) -> None:
        self._closed = closed
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing is not None

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start it, also after `close`. If no caller awaits it, its error is ignored."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, also after `close`."""
        return await asyncio.shield(self.start(work))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Unavailable after `close`."""
        if self._closing is not None:
            work.close()
            raise Unavailable(self._closed)
        return await asyncio.shield(self.start(work))

    async def wait(self) -> None:
        """Return once no task is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, *release: Callable[[], Awaitable[None]]) -> None:
        """Wait for all tasks, then call each `release` in order: once, however often this is called or cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(release))
        await asyncio.shield(self._closing)

    async def _close(self, release: tuple[Callable[[], Awaitable[None]], ...]) -> None:
        await self.wait()
        for step in release:
            await step()

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # If the caller is gone, no other code reads the error, and asyncio would log it.
            task.exception()


class HasTasks(Protocol):
    """What has methods that are `uncancelled`."""

    tasks: UncancellableTasks


S = TypeVar("S", bound=HasTasks)


def uncancelled(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Lets a method run to its end even if the caller is cancelled. Unavailable after the `close` of the `tasks`."""

    @wraps(method)
    async def run(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await owner.tasks.run(method(owner, *args, **kwargs))

    return run
