"""In charge of views: what a query function sees of a read model."""

from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from twofold.errors import InvalidMessage, Unavailable
from twofold.read_store.port import Native, ReadModel, Snapshot

R = TypeVar("R")

MAX_FIND = 10_000
"""Rows one `find` returns at most. More is asked for in pages, so that no answer grows without bound unnoticed."""


class Page(msgspec.Struct, Generic[R], frozen=True):
    """Some rows, and the cursor that continues after them (None: that was all)."""

    items: list[R]
    next: str | None = None


class View(Generic[R]):
    """Reads one read model within one snapshot; rows come back as the type the projection folds."""

    def __init__(self, model: ReadModel, snapshot: Snapshot, *, refuse: frozenset[str] = frozenset()) -> None:
        self._model = model
        self._snapshot = snapshot
        self._refuse = refuse

    async def get(self, key: object) -> R | None:
        """The row of a key, or None; `key` is of the type that the projection's keys are of, or its text.

        Unavailable where the key is set aside and the caller asked for freshness, InvalidMessage where it is no text.
        """
        text = key_text(key)
        if text in self._refuse:
            raise Unavailable(
                f"The row '{text}' of '{self._model.name}' is set aside after a failing event and is not up to date.",
                retry_after=30.0,
            )
        return await self._snapshot.get(self._model, text)

    def native(self) -> Native:
        """The read store's own client, and where the rows of this read model are, for reading what `find` cannot.

        Only reading keeps the promise that rows are the fold of the log. What it reads is this snapshot, where the
        store holds a moment still.
        """
        return self._snapshot.native(self._model)

    async def find(self, *, order_by: str | None = None, limit: int | None = None, **filters: Any) -> list[R]:
        """The rows whose fields equal `filters`, by key or by `order_by` ("-total": largest first).

        At most `limit`; without it all of them. UndeclaredAccess where the projection does not declare this filter or
        order, InvalidMessage where there are more than 10,000 and no limit was given, or a larger one.
        """
        if limit is not None and limit > MAX_FIND:
            raise InvalidMessage(
                f"A find returns at most {MAX_FIND} rows, not {limit}. Ask for them in pages.", field="limit"
            )
        found = await self._find(filters, order_by, MAX_FIND if limit is None else limit, None)
        if limit is None and found.next is not None:
            raise InvalidMessage(f"More than {MAX_FIND} rows of {self._model.name} match. Ask for them in pages.")
        return found.items

    async def page(
        self, *, size: int = 50, after: str | None = None, order_by: str | None = None, **filters: Any
    ) -> Page[R]:
        """Like `find`, `size` rows at a time; `after` is the `next` of the page before."""
        if not 1 <= size <= MAX_FIND:
            raise InvalidMessage(f"A page has 1 to {MAX_FIND} rows, not {size}.", field="size")
        return await self._find(filters, order_by, size, after)

    async def _find(self, filters: dict[str, Any], order_by: str | None, limit: int, cursor: str | None) -> Page[R]:
        descending = order_by is not None and order_by.startswith("-")
        field = order_by.lstrip("-") if order_by else None
        found = await self._snapshot.find(
            self._model, filters, order_by=field, descending=descending, limit=limit, cursor=cursor
        )
        return Page([row for _, row in found.rows], found.cursor)


def key_text(key: object) -> str:
    """The text that the row of a key is kept under: that of its value where it is an Enum, as for tags.

    InvalidMessage where it holds half of a surrogate pair, which no store takes.
    """
    value: object = key.value if isinstance(key, Enum) else key
    text = value if type(value) is str else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage("key contains half of a surrogate pair. Send whole characters.", field="key") from error
    return text
