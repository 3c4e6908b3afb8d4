"""Rows of an inline projection for an audit. They are stored with the log and are never behind it."""

from collections.abc import Iterable
from typing import Any

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.projection import BoundProjection
from twofold.errors import Unavailable
from twofold.operations.row_inspector import RowObservation
from twofold.read_store.partition import ParkedEvent
from twofold.write_store.inline_state import COMPLETE, InlineProjection
from twofold.write_store.port import WriteStore


class InlineRowInspector:
    """Reads inline rows by key. Each is the state at a position that the head had while it was read."""

    generation = 0
    parked_events: frozenset[ParkedEvent] = frozenset()

    def __init__(self, write_store: WriteStore, projection: BoundProjection) -> None:
        self.name = projection.name
        self._write_store = write_store
        self._inline = InlineProjection(projection)

    async def rows(self, keys: Iterable[str]) -> dict[str, RowObservation]:
        """The observations of these keys. Unavailable if the rows of this version are not, or no longer, stored."""
        distinct = list(keys)
        first = (await self._write_store.read(NO_EVENTS)).head
        stored = await self._write_store.rows(self._inline.space, [COMPLETE, *distinct])
        last = (await self._write_store.read(NO_EVENTS)).head
        if COMPLETE not in stored:
            raise Unavailable(
                f"The rows of version {self._inline.bound.version} of '{self.name}' are not stored with the log. "
                "Start the app first."
            )
        rows: dict[str, Any] = {key: msgspec.json.decode(stored[key].value) for key in distinct if key in stored}
        return {key: RowObservation(rows.get(key), None, first, last) for key in distinct}
