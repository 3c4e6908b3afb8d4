"""Views of live projections: a row is folded from the log when it is read."""

import logging
from typing import Any

from twofold.codec import EventCodec
from twofold.codec.edge import check_text
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import Unavailable
from twofold.query_service.log_view import LogView
from twofold.read_store.port import ReadModel
from twofold.write_store.port import WriteStore

log = logging.getLogger(__name__)

PAGE = 1_000
"""Events read at once, so that a long history needs little memory."""


class LiveView(LogView):
    """The rows of a live projection at the head that this answer began with: one moment for all rows."""

    def __init__(self, projection: BoundProjection, events: EventCodec, log: WriteStore, head: Position) -> None:
        super().__init__(projection, log, head)
        self._events = events

    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The fold of the key's events. Unavailable, naming the position, where it fails at one of them."""
        check_text(key, "key")
        row: Any | None = None
        position, query = 0, self.projection.events_of(key)
        while position < self.head:
            page = await self.log.read(query, position, PAGE)
            for recorded in page.events:
                if recorded.position > self.head:
                    return row
                row = self._folded(row, key, recorded)
            position = page.upto
        return row

    def _folded(self, row: Any | None, key: str, recorded: RecordedEvent) -> Any | None:
        event = self._events.decode(recorded)
        try:
            # The index has every tag an event ever had. The present code decides which rows it changes.
            return self.projection.fold(row, event, key, recorded) if key in self.projection.keys(event) else row
        except Exception as error:
            name, position = self.projection.name, recorded.position
            log.exception("%s: the row '%s' cannot be folded beyond position %d", name, key, position)
            raise Unavailable(
                f"The row '{key}' of '{name}' cannot be folded: the fold fails at position {position} "
                f"('{recorded.type}'; {type(error).__name__}). Fix the fold, or the event.",
                retry_after=30.0,
            ) from error
