"""The pages of a find: what every store does with the rows it has found."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from twofold.read_store.access import Access
from twofold.read_store.port import FindPage

T = TypeVar("T")
S = TypeVar("S")


async def find_page(
    access: Access, fetch: Callable[[int], Awaitable[Sequence[T]]], read: Callable[[T], tuple[str, Any]]
) -> FindPage:
    """The page that answers a find. `fetch` returns the first records of it, at most so many; `read` gives key and row.

    One record more than requested tells whether there is a next page.
    """
    if access.matches_nothing:
        return FindPage([], None)
    records = await fetch(access.limit + 1)
    rows = [read(record) for record in records[: access.limit]]
    if len(records) <= access.limit:
        return FindPage(rows, None)
    key, row = rows[-1]
    return FindPage(rows, access.cursor(access.order_value(row), key))


async def fetch_until(
    count: int, statements: Iterable[S], fetch: Callable[[S, int], Awaitable[Sequence[T]]]
) -> list[T]:
    """The first `count` records of some statements. `fetch` runs one, for at most so many records."""
    records: list[T] = []
    for statement in statements:
        records += await fetch(statement, count - len(records))
        if len(records) >= count:
            break
    return records
