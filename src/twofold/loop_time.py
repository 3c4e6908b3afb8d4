"""How long a coroutine occupies the event loop."""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

from twofold.world import World

T = TypeVar("T")


class LoopTime(Generator[Any, Any, T]):
    """Await it for the result of a coroutine. `seconds` counts the time in which it runs, without what it waits for."""

    def __init__(self, work: Coroutine[Any, Any, T], world: World) -> None:
        self._work = work
        self._world = world
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def send(self, value: Any, /) -> Any:
        """Run to the next moment at which the coroutine waits. Returns what it waits for."""
        begun = self._world.monotonic()
        try:
            return self._work.send(value)
        finally:
            self.seconds += self._world.monotonic() - begun

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        """Like `send`, with an error in place of a value."""
        error: BaseException = kind if isinstance(kind, BaseException) else value or kind()
        begun = self._world.monotonic()
        try:
            return self._work.throw(error if traceback is None else error.with_traceback(traceback))
        finally:
            self.seconds += self._world.monotonic() - begun
