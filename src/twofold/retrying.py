"""Calls that are repeated until they succeed or a deadline has passed, and the increasing delays between attempts."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from twofold.world import World

T = TypeVar("T")


def delay(attempt: int, *, first: float, longest: float) -> float:
    """Seconds to wait after failure number `attempt` in a row, counted from 1: `first`, then twice as long each time.

    Never more than `longest`.
    """
    return min(first * 2.0 ** min(attempt - 1, 60), longest)


async def retry_until_deadline(
    attempt: Callable[[float], Awaitable[T]],
    *,
    world: World,
    patience: float,
    retryable: Callable[[Exception], bool],
    first: float = 0.02,
    longest: float = 0.5,
) -> T:
    """The result of `attempt`, which gets the seconds that are left and is repeated for `patience` seconds.

    Raises its error where that is not `retryable`, or the next attempt would begin after the deadline. The delays grow
    from `first` to `longest` seconds.
    """
    deadline = world.monotonic() + patience
    failures = 0
    while True:
        try:
            return await attempt(deadline - world.monotonic())
        except Exception as error:
            failures += 1
            pause = delay(failures, first=first, longest=longest)
            if not retryable(error) or world.monotonic() + pause > deadline:
                raise
        await world.sleep(pause)
