"""A signal that wakes every task that waits for a change."""

import asyncio

from twofold.world import World


class Signal:
    """Wakes every task that waits for the next change.

    Take `next` before you read the state, and wait for it after: then no change in between is missed.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """The next change. It is set once, when the signal is fired."""
        return self._next

    def fire(self) -> None:
        """Wake all that wait."""
        self._next.set()
        self._next = asyncio.Event()


async def first_of(*changes: asyncio.Event) -> None:
    """Return when one of `changes` is set."""
    waiting = [asyncio.ensure_future(change.wait()) for change in changes]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def wait_for(change: asyncio.Event, seconds: float, world: World) -> None:
    """Return when `change` is set, or after `seconds`."""
    try:
        await world.within(seconds, change.wait())
    except TimeoutError:
        return
