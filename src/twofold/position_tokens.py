"""The position tokens that callers send: checked against the log, or while that is away against the read store."""

from typing import NamedTuple

from twofold.domain.events import Position
from twofold.errors import ForkedHistory, InvalidMessage, Unavailable
from twofold.world import World
from twofold.write_store.history import UNCHECKED, check_history
from twofold.write_store.port import StampParts, WriteStore

_LONGEST_CHECK = 1.0
"""Seconds that the log may take for a check, before it counts as away."""
_AWAY = 1.0
"""Seconds after a check that failed in which no other one is tried."""


class RequiredPosition(NamedTuple):
    """The position that an answer must reach. `unchecked`: the stamp of its token, where the log could not be asked."""

    position: Position
    unchecked: StampParts | None = None

    def refuse_other_history(self, position: Position, stamp: str) -> None:
        """Unavailable where an answer as of a position with this stamp may be of another history than the token.

        Within one epoch of a log a position is reached once: so an answer that is not before it has seen it.
        """
        wanted, here = self.unchecked, StampParts.of(stamp)
        if wanted is None:
            return
        same = here is not None and (here.log, here.epoch) == (wanted.log, wanted.epoch)
        if here is not None and position == self.position and UNCHECKED not in (wanted.digest, here.digest):
            same = same and here.digest == wanted.digest
        if not same:
            raise Unavailable(
                "The write store is away, so it cannot be checked whether this position is one of its log. Send the "
                "query again later, or without a position."
            )


class PositionTokens:
    """Reads the position tokens of callers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._away_until = 0.0

    async def position_of(self, log: WriteStore, token: str, field: str) -> Position:
        """The position in a token. InvalidMessage, with the name of the field, where the log does not hold it."""
        stamp, position = _parts(token, field)
        try:
            await check_history(log, stamp, position)
        except ForkedHistory as error:
            raise InvalidMessage(
                f"The log does not hold this position. {error} Read without it and use new receipts.", field=field
            ) from error
        return position

    async def required(self, log: WriteStore, token: str, field: str = "position") -> RequiredPosition:
        """What an answer must reach for a token. If the log is away, the token is checked with the answer."""
        stamp, position = _parts(token, field)
        unchecked = RequiredPosition(position, StampParts.of(stamp))
        if unchecked.unchecked is not None and self._world.monotonic() < self._away_until:
            return unchecked
        try:
            return RequiredPosition(await self._world.within(_LONGEST_CHECK, self.position_of(log, token, field)))
        except (Unavailable, TimeoutError) as error:
            if unchecked.unchecked is None:
                raise Unavailable(
                    f"The position cannot be checked, because the write store is away: {error}"
                ) from error
            self._away_until = self._world.monotonic() + _AWAY
            return unchecked


def _parts(token: str, field: str) -> tuple[str, Position]:
    stamp, _, number = token.rpartition(".")
    if "." not in stamp or not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise InvalidMessage("The position is not one of ours. Send the token of a receipt as it came.", field=field)
    return stamp, int(number)
