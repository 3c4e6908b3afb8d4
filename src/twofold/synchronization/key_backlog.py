"""The events of a parked key, read from the log again: the one it is parked at, and those that wait behind it."""

from msgspec.structs import replace

from twofold.domain.events import Position, RecordedEvent
from twofold.domain.policy import is_alone
from twofold.synchronization.key_lanes import KeyLane
from twofold.synchronization.policy_rows import ParkedReaction
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import Reaction

_PAGE = 100
_ITS_TURN = "An earlier event of this key was parked. This one is answered in its turn."


class KeyBacklog:
    """Reads the events of parked keys."""

    def __init__(self, reaction: Reaction, storage: PolicyStorage) -> None:
        self._reaction = reaction
        self._storage = storage

    async def first(self, lane: KeyLane) -> RecordedEvent | None:
        """The event that a key is parked at. None if the policy no longer takes it."""
        assert lane.parked is not None
        position = lane.parked.position
        if not lane.backlog or lane.backlog[0].position != position:
            lane.backlog.clear()
            await self._read(lane, position - 1)
        first = lane.backlog[0] if lane.backlog else None
        return first if first is not None and first.position == position else None

    async def after_first(self, lane: KeyLane) -> ParkedReaction | None:
        """How a key is parked without the event it is parked at: at the next one. None if nothing waits behind it."""
        assert lane.reaction is not None
        at = lane.reaction.parked.position
        if not lane.backlog or lane.backlog[0].position != at:
            # The policy no longer takes the event. Those behind it follow.
            lane.backlog.clear()
        while not any(event.position > at for event in lane.backlog):
            upto = lane.reaction.parked.upto
            if upto > at:
                await self._read(lane, at)
            if lane.reaction.parked.upto == upto:
                # Nothing was counted while this was read.
                break
        following = next((event for event in lane.backlog if event.position > at), None)
        if following is None:
            return None
        parked = lane.reaction.parked
        return ParkedReaction(
            replace(parked, position=following.position, error=_ITS_TURN, waiting=max(0, parked.waiting - 1))
        )

    async def _read(self, lane: KeyLane, after: Position) -> None:
        assert lane.parked is not None
        limit = 1 if is_alone(lane.key) else _PAGE
        events = await self._storage.events(self._reaction.events_of(lane.key), after, limit)
        # What came later is counted as waiting by the page that brings it.
        upto = max(lane.parked.position, lane.parked.upto)
        lane.backlog.extend(event for event in events if event.position <= upto)
