"""Views of inline projections: rows are read from the write store, where the commands wrote them."""

from typing import Any

from twofold.codec.edge import check_text
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.query_service.log_view import LogView
from twofold.read_store.port import ReadModel
from twofold.write_store.inline_state import COMPLETE, InlineProjection
from twofold.write_store.port import WriteStore


class InlineView(LogView):
    """The rows of an inline projection. Each is as new as the moment it is read, which is not before `head`."""

    def __init__(self, inline: InlineProjection, log: WriteStore, head: Position, digest: str) -> None:
        super().__init__(inline.bound, log, head, digest)
        self._inline = inline

    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The row of a key, or None. Unavailable where this version of the projection is not kept any more."""
        check_text(key, "key")
        rows = await self.log.rows(self._inline.space, [COMPLETE, key])
        if COMPLETE not in rows:
            raise Unavailable(
                f"The rows of '{self._inline.name}' version {self._inline.bound.version} are not kept any more: "
                "another process has listed other inline projections. Start this process with the newer code.",
                retry_after=10.0,
            )
        return None if key == COMPLETE else self._inline.read(key, rows.get(key)).row
