"""Reads the events that touch one key: by its tag if it has one, else among all events of the projection."""

from collections.abc import Callable
from typing import Any

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import Unavailable
from twofold.read_store.partition import ParkedEvent
from twofold.synchronization.folding import EventFailed, KeyedEvents, decode_all, with_keys
from twofold.write_store.port import WriteStore

_PAGE = 1_000


class KeyEventReader:
    """Reads the log for single keys of a projection. `left_out` are events that are parked or skipped by position."""

    def __init__(
        self,
        projection: BoundProjection,
        write_store: WriteStore,
        decode: Callable[[RecordedEvent], Any],
        left_out: frozenset[ParkedEvent] = frozenset(),
    ) -> None:
        self.left_out = left_out
        self._projection = projection
        self._write_store = write_store
        self._decode = decode

    def including(self, event: ParkedEvent) -> "KeyEventReader":
        """The same with an event that is left out here."""
        return KeyEventReader(self._projection, self._write_store, self._decode, self.left_out - {event})

    def without(self, key: str) -> frozenset[Position]:
        """The positions of the events that are left out for a key."""
        return frozenset(event.position for event in self.left_out if event.partition.holds(key))

    async def of(self, key: str, after: Position, last: Position) -> KeyedEvents:
        """The events that touch a key, after `after` and up to `last`. In place of one that cannot be read, and of one
        that may touch it for all that is known, stands an EventFailed.

        Unavailable if the log ends before `last`.
        """
        work = KeyedEvents([], [], [])
        position, query, without = after, self._projection.events_of(key), self.without(key)
        while position < last:
            page = await self._write_store.read(query, position, _PAGE)
            if page.upto <= position:
                raise Unavailable(f"The log ends at position {page.head}, but events up to {last} are needed.")
            events = [each for each in page.events if each.position <= last and each.position not in without]
            for recorded, decoded in zip(events, decode_all(self._decode, events), strict=True):
                event, keys = with_keys(self._projection, recorded, decoded)
                if keys is None or key in keys:
                    work.add(recorded, event, key)
            position = page.upto
        return work

    async def touch(self, position: Position, key: str) -> bool:
        """Whether the event at a position touches a key, whatever tags it is stored under."""
        return key in (await self.keys_at(position))[1]

    async def keys_at(self, position: Position) -> tuple[EventFailed | None, tuple[str, ...]]:
        """The keys that the event at a position touches; none if there is no such event of the projection.

        If it cannot be read or has no usable key: why, and the keys that the log has it under, if any.
        """
        query = EventQuery((QueryItem(self._projection.types),))
        page = await self._write_store.read(query, position - 1, 1) if position > 0 else None
        events = [] if page is None else [each for each in page.events if each.position == position]
        for recorded, decoded in zip(events, decode_all(self._decode, events), strict=True):
            event, keys = with_keys(self._projection, recorded, decoded)
            return (event if isinstance(event, EventFailed) else None), keys or ()
        return None, ()
