"""Reads the events that touch one key: by its tag if it has one, else among all events of the projection."""

from collections.abc import Callable
from typing import Any

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.synchronization.folding import KeyedEvents
from twofold.write_store.port import WriteStore

_PAGE = 1_000


class KeyEventReader:
    """Reads the log for single keys of a projection."""

    def __init__(
        self, projection: BoundProjection, write_store: WriteStore, decode: Callable[[RecordedEvent], Any]
    ) -> None:
        self._projection = projection
        self._write_store = write_store
        self._decode = decode

    async def of(self, key: str, after: Position, last: Position) -> KeyedEvents:
        """The events that touch a key, after `after` and up to `last`."""
        work = KeyedEvents([], [], [])
        position, query = after, self._projection.events_of(key)
        while position < last:
            page = await self._write_store.read(query, position, _PAGE)
            for recorded in page.events:
                event = self._decode(recorded)
                if recorded.position <= last and key in self._projection.keys(event):
                    work.add(recorded, event, key)
            position = page.upto
        return work

    async def touch(self, position: Position, key: str) -> bool:
        """Whether the event at a position touches a key, whatever tags it is stored under."""
        query = EventQuery((QueryItem(self._projection.types),))
        page = await self._write_store.read(query, position - 1, 1) if position > 0 else None
        return page is not None and any(
            each.position == position and key in self._projection.keys(self._decode(each)) for each in page.events
        )
