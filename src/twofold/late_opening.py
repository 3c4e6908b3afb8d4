"""Something that may be away when a process starts: opened when it can be reached, without making callers wait long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.world import World

T = TypeVar("T")

_LONGEST_WAIT = 2.0
"""Seconds that a caller waits for an attempt at most."""
_BETWEEN_ATTEMPTS = 0.5


class LateOpening(Generic[T]):
    """Opens something by `opening`, again and again until that succeeds; `opened` is None before.

    There is one attempt at a time, for all callers. Once one has failed, callers get its error and do not wait.
    """

    def __init__(self, opening: Callable[[], Awaitable[T]], world: World) -> None:
        self.opened: T | None = None
        self._opening = opening
        self._world = world
        self._attempt: asyncio.Task[T] | None = None
        self._next_attempt = 0.0
        self._failure: TwofoldError | None = None
        self._closed = False

    async def try_first(self) -> None:
        """Try to open it. If it is away, later calls try again. WiringError where it can never be opened."""
        try:
            await self.get()
        except Unavailable:
            if isinstance(self._failure, WiringError):
                raise self._failure from None

    async def get(self) -> T:
        """What was opened. Unavailable, with the reason, as long as it cannot be."""
        if self.opened is not None:
            return self.opened
        if self._closed:
            raise Unavailable("It is closed: the process stops.")
        now = self._world.monotonic()
        if self._attempt is None or (self._attempt.done() and now >= self._next_attempt):
            self._attempt = asyncio.create_task(self._open(), name="twofold-late-opening")
            # Its error is noted by then, and callers may have left.
            self._attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
        elif self._failure is not None:
            raise Unavailable(str(self._failure))
        try:
            return await self._world.within(_LONGEST_WAIT, asyncio.shield(self._attempt))
        except TimeoutError as error:
            self._failure = self._failure or Unavailable(f"It has not answered for {_LONGEST_WAIT:g} s.")
            raise Unavailable(str(self._failure)) from error
        except TwofoldError as error:
            raise Unavailable(str(error)) from error

    async def close(self, close: Callable[[T], Awaitable[None]]) -> None:
        """Stop trying, and close what was opened by `close`."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)
        opened, self.opened = self.opened, None
        if opened is not None:
            await close(opened)

    async def _open(self) -> T:
        try:
            self.opened = await self._opening()
        except TwofoldError as error:
            self._failure = error
            raise
        finally:
            self._next_attempt = self._world.monotonic() + _BETWEEN_ATTEMPTS
        self._failure = None
        return self.opened
