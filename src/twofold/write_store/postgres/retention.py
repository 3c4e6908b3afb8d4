"""How long a log in PostgreSQL remembers command ids: one clock for all processes, and what is older is forgotten."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from twofold.errors import TwofoldError
from twofold.world import World, microseconds
from twofold.write_store.command_clock import CommandClock
from twofold.write_store.postgres import functions

log = logging.getLogger(__name__)

_EVERY = 10.0
_MOST = 60_000_000
"""Microseconds that the clock of all moves at once. After a longer pause this process might be far ahead of others."""

Call = Callable[..., Awaitable[Sequence[functions.ResultRow]]]


class CommandRetention:
    """Ages command ids by the time that the processes of a log measure themselves, and forgets the old ones.

    `clock` is never more than a few seconds behind the clock of all, so an id that this process records is not taken
    for an older one by another process.
    """

    def __init__(self, world: World, retention: int, call: Call) -> None:
        self.clock = CommandClock(world, None)
        self._world = world
        self._retention = retention
        self._call = call
        self._known: int | None = None
        """What the clock of all said last; None before it was asked."""
        self._set_at = 0.0
        self._forget_at = world.monotonic() + _EVERY
        self._since_forgotten = 0

    async def set_clock(self) -> None:
        """Set the clock by the clock of all, at most every ten seconds. To be done before an append."""
        now = self._world.monotonic()
        if now < self._set_at:
            return
        mine = 0 if self._known is None else min(self.clock.now(), self._known + _MOST)
        ((known,),) = await self._call(functions.ADVANCE_CLOCK, mine)
        if not known:
            # The log is new, so there is no id whose age could be wrong.
            ((known,),) = await self._call(functions.ADVANCE_CLOCK, microseconds(self._world.now()))
        self._known = known
        self.clock.set(known)
        self._set_at = now + _EVERY

    async def forget(self, appends: int) -> None:
        """After so many appends: delete old ids, at most every ten seconds."""
        self._since_forgotten += appends
        now = self._world.monotonic()
        if not self._since_forgotten or now < self._forget_at:
            return
        # Twice as many as were added, so that the number of old ids does not grow.
        limit, self._since_forgotten = 2 * self._since_forgotten, 0
        self._forget_at = now + _EVERY
        try:
            await self._call(functions.FORGET_COMMANDS, self.clock.now() - self._retention, limit)
        except TwofoldError as error:
            # What was appended stays acknowledged. Deleting is tried again later.
            log.warning("Old command ids could not be deleted: %s", error)
