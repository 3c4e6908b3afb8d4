"""Views: what a query function can read of a read model."""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from twofold.domain.events import Position
from twofold.errors import InvalidMessage, Unavailable
from twofold.read_store.parked_summary import NOTHING_PARKED, ParkedSummary
from twofold.read_store.partition import ParkedEvent, parked_event
from twofold.read_store.port import Native, ReadModel, Snapshot

R = TypeVar("R")

MAX_FIND = 10_000
"""Rows that one `find` returns at most. More rows are read in pages, so that no answer grows without bound."""


class Page(msgspec.Struct, Generic[R], frozen=True):
    """Some rows, and the cursor that continues after them (None: that was all)."""

    items: list[R]
    next: str | None = None


class View(Generic[R]):
    """Reads one read model within one snapshot; rows come back as the type the projection folds.

    Where the caller asked for a position (`at_least`), rows that lack a `parked` event are refused.
    """

    def __init__(
        self,
        model: ReadModel,
        snapshot: Snapshot,
        *,
        parked: ParkedSummary = NOTHING_PARKED,
        at_least: Position = 0,
    ) -> None:
        self._model = model
        self._snapshot = snapshot
        self._parked = NOTHING_PARKED
        self._lacking: Sequence[ParkedEvent] = ()
        if at_least and parked.count:
            self._refuse(parked, at_least)

    async def get(self, key: object) -> R | None:
        """The row of a key, or None. `key` has the type of the projection's keys, or is its text.

        Unavailable where the key is parked and the caller asked for freshness, or where an event is parked that the
        caller asked for and that may change this row. InvalidMessage where it cannot be text.
        """
        text = key_text(key)
        if self._parked.count:
            await self._refuse_parked(text)
        return await self._snapshot.get(self._model, text)

    def native(self) -> Native:
        """The read store's own client, and the place of this read model's rows, for what `find` cannot do.

        Use it only to read: rows must stay the fold of the log. It reads this snapshot, if the store has snapshots.
        """
        return self._snapshot.native(self._model)

    async def find(self, *, order_by: str | None = None, limit: int | None = None, **filters: Any) -> list[R]:
        """The rows whose fields equal `filters`, ordered by key or by `order_by` ("-total": largest first).

        At most `limit` rows; all without it. UndeclaredAccess where the projection does not declare this filter or
        order. InvalidMessage where more than 10,000 rows match without a limit, or the limit is larger.
        """
        if limit is not None and limit > MAX_FIND:
            raise InvalidMessage(
                f"A find returns at most {MAX_FIND} rows, not {limit}. Read them in pages.", field="limit"
            )
        page = await self._find(filters, order_by, MAX_FIND if limit is None else limit, None)
        if limit is None and page.next is not None:
            raise InvalidMessage(f"More than {MAX_FIND} rows of {self._model.name} match. Read them in pages.")
        return page.items

    async def page(
        self, *, size: int = 50, after: str | None = None, order_by: str | None = None, **filters: Any
    ) -> Page[R]:
        """Like `find`, one page of `size` rows. `after` is the `next` of the page before."""
        if not 1 <= size <= MAX_FIND:
            raise InvalidMessage(f"A page has 1 to {MAX_FIND} rows, not {size}.", field="size")
        return await self._find(filters, order_by, size, after)

    def _refuse(self, parked: ParkedSummary, at_least: Position) -> None:
        """Refuse rows that lack one of these parked events, up to a position."""
        self._parked = parked
        events = map(parked_event, parked.events)
        self._lacking = [event for event in events if event is not None and event.position <= at_least]

    async def _refuse_parked(self, key: str) -> None:
        if await self._is_parked(key):
            raise Unavailable(
                f"The row '{key}' of '{self._model.name}' is parked after a failing event and is not up to date.",
                retry_after=30.0,
            )
        for event in self._lacking:
            if event.partition.holds(key):
                raise Unavailable(
                    f"The event at {event.position} is parked, and nobody can tell which row of '{self._model.name}' "
                    f"it changes: the row '{key}' may not be up to date.",
                    retry_after=30.0,
                )

    async def _is_parked(self, key: str) -> bool:
        named = key in self._parked.first
        return named or (not self._parked.complete and await self._snapshot.is_parked(self._model, key))

    async def _find(self, filters: dict[str, Any], order_by: str | None, limit: int, cursor: str | None) -> Page[R]:
        descending = order_by is not None and order_by.startswith("-")
        field = order_by.lstrip("-") if order_by else None
        page = await self._snapshot.find(
            self._model, filters, order_by=field, descending=descending, limit=limit, cursor=cursor
        )
        return Page([row for _, row in page.rows], page.cursor)


def key_text(key: object) -> str:
    """A key as text; for an Enum the text of its value, as for tags.

    InvalidMessage where it holds half of a surrogate pair, which no store can keep.
    """
    value: object = key.value if isinstance(key, Enum) else key
    text = value if type(value) is str else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage("key contains half of a surrogate pair. Send whole characters.", field="key") from error
    return text
