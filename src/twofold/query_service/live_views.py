"""Views of live projections: a row is folded from the log when it is read."""

from typing import Any

from twofold.codec import EventCodec
from twofold.codec.edge import check_text
from twofold.domain.events import RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import FunctionFailed, Unavailable
from twofold.query_service.log_view import LogView
from twofold.read_store.port import ReadModel
from twofold.write_store.port import Slice, WriteStore

PAGE = 1_000
"""Events read at once, so that a long history needs little memory."""


class LiveView(LogView):
    """The rows of a live projection at the head that this answer began with: one moment for all rows."""

    def __init__(self, projection: BoundProjection, events: EventCodec, log: WriteStore, end: Slice) -> None:
        super().__init__(projection, log, end.head, end.digest)
        self._events = events

    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The fold of the key's events. FunctionFailed, naming the position, where it fails at one of them."""
        check_text(key, "key")
        row: Any | None = None
        position, query = 0, self.projection.events_of(key)
        while position < self.head:
            page = await self.log.read(query, position, PAGE)
            if page.upto <= position:
                raise Unavailable(f"The log ends at position {page.head}, but it was at {self.head} before.")
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
        except BaseException as error:
            what = f"fails at position {recorded.position} ('{recorded.type}') with {type(error).__name__}"
            details = f"the row '{key}' cannot be folded beyond it"
            raise FunctionFailed(f"The fold of '{self.projection.name}'", what, details) from error
