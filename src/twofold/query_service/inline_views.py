"""In charge of inline views: a row is read where the commands' own transactions have put it."""

from typing import Any

from twofold.codec.edge import check_text
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.query_service.log_view import LogView
from twofold.read_store.port import ReadModel
from twofold.write_store.inline_state import COMPLETE, InlineProjection
from twofold.write_store.port import WriteStore


class InlineView(LogView):
    """The rows of an inline projection: each of the moment it is read, which is no earlier than `head`."""

    def __init__(self, kept: InlineProjection, log: WriteStore, head: Position) -> None:
        super().__init__(kept.projection, log, head)
        self._kept = kept

    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The row of a key, or None. Unavailable where this version of the projection is not kept any more."""
        check_text(key, "key")
        rows = await self.log.rows(self._kept.space, [COMPLETE, key])
        if COMPLETE not in rows:
            raise Unavailable(
                f"The rows of '{self._kept.name}' version {self._kept.projection.version} are not kept any more: "
                "another process has listed other inline projections. Start this one with the newer code.",
                retry_after=10.0,
            )
        return None if key == COMPLETE else self._kept.read(key, rows.get(key)).row
