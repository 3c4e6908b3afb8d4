"""In charge of what a look at the rows of an inline projection proves: they are kept with the log, and never behind."""

from collections.abc import Iterable
from typing import Any

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.projection import BoundProjection
from twofold.errors import Unavailable
from twofold.operations.looking import Seen
from twofold.write_store.inline_state import COMPLETE, InlineProjection
from twofold.write_store.port import WriteStore


class InlineLook:
    """Looks at rows by key. Each is the state at some position that the head had between two looks at it."""

    generation = 0

    def __init__(self, write_store: WriteStore, projection: BoundProjection) -> None:
        self.name = projection.name
        self._write_store = write_store
        self._kept = InlineProjection(projection)

    async def of(self, keys: Iterable[str]) -> dict[str, Seen]:
        """What there is of these keys now. Unavailable where this version is not kept: not yet, or not any more."""
        wanted = list(keys)
        first = (await self._write_store.read(NO_EVENTS)).head
        rows = await self._write_store.rows(self._kept.space, [COMPLETE, *wanted])
        last = (await self._write_store.read(NO_EVENTS)).head
        if COMPLETE not in rows:
            raise Unavailable(
                f"Version {self._kept.projection.version} of '{self.name}' is not kept in the log. Start the app first."
            )
        there: dict[str, Any] = {key: msgspec.json.decode(rows[key].value) for key in wanted if key in rows}
        return {key: Seen(there.get(key), None, first, last) for key in wanted}
