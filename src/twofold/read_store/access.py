"""Finds: checked against what is declared, answered in pages, continued by a cursor."""

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, TypeVar

import msgspec

from twofold.errors import InvalidMessage, UndeclaredAccess
from twofold.read_store.columns import Column, ColumnValue
from twofold.read_store.port import FindPage, ReadModel

T = TypeVar("T")
S = TypeVar("S")

_Mark = tuple[str, ColumnValue, str]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """One find, checked. `after` is the order value and the key to continue behind; `order` None orders by key.

    `group` holds the filtered fields as declared. Descending reverses the whole order, ties and None included.
    `order_value` gives the value a row is ordered by. `matches_nothing`: no row can have the values that are filtered
    by, and the column values they were converted to must not be searched.
    """

    group: tuple[str, ...]
    values: tuple[ColumnValue, ...]
    order: str | None
    descending: bool
    limit: int
    after: tuple[ColumnValue, str] | None
    order_value: Callable[[Any], ColumnValue]
    fingerprint: str
    matches_nothing: bool = False

    def cursor(self, value: ColumnValue, key: str) -> str:
        """The cursor that continues this find behind the row of `key`, whose order value is `value`."""
        return base64.urlsafe_b64encode(msgspec.json.encode((self.fingerprint, value, key))).decode().rstrip("=")


def check_access(
    model: ReadModel,
    columns: Mapping[str, Column],
    filters: Mapping[str, Any],
    *,
    limit: int,
    order_by: str | None = None,
    descending: bool = False,
    cursor: str | None = None,
) -> Access:
    """A find as `Snapshot.find` takes it, checked against what the model declares. Raises as `find` does."""
    if limit < 1:
        raise InvalidMessage(f"A find returns 1 row or more, not {limit}.", field="limit")
    group = _group(model, filters)
    if order_by is not None and order_by not in model.order_by:
        raise UndeclaredAccess(
            f"The projection '{model.name}' is not declared to be ordered by '{order_by}'. "
            f"Declare it: {_suggest('order_by', model.order_by, order_by)}.",
            field=order_by,
        )
    values = tuple(columns[field].value(filters[field]) for field in group)
    identity = (model.name, dict(zip(group, values, strict=True)), order_by, descending)
    fingerprint = hashlib.blake2s(msgspec.json.encode(identity, order="sorted"), digest_size=8).hexdigest()
    order = None if order_by is None or order_by in group else columns[order_by]
    return Access(
        group=group,
        values=values,
        order=order.field if order else None,
        order_value=order.of if order else lambda row: None,
        descending=descending,
        limit=limit,
        after=_after(cursor, fingerprint, order) if cursor is not None else None,
        fingerprint=fingerprint,
        matches_nothing=not all(columns[field].may_hold(filters[field]) for field in group),
    )


def _group(model: ReadModel, filters: Mapping[str, Any]) -> tuple[str, ...]:
    for group in ((), *model.find_by):
        if set(filters) == set(group):
            return group
    fields = tuple(filters)
    named = " and ".join(f"'{field}'" for field in fields)
    raise UndeclaredAccess(
        f"The projection '{model.name}' is not declared to be found by {named}. "
        f"Declare it: {_suggest('find_by', model.find_by, fields[0] if len(fields) == 1 else fields)}.",
        field=fields[0],
    )


def _suggest(option: str, declared: tuple[Any, ...], missing: object) -> str:
    literal = f'"{missing}"' if isinstance(missing, str) else str(missing).replace("'", '"')
    return f"{option}=[…, {literal}]" if declared else f"{option}=[{literal}]"


def _after(cursor: str, fingerprint: str, order: Column | None) -> tuple[ColumnValue, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        made_for, value, key = msgspec.json.decode(text, type=_Mark)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidMessage("Invalid cursor. Start again from the first page.", field="after") from error
    if made_for != fingerprint or not _fits(value, order):
        raise InvalidMessage(
            "This cursor belongs to another query. Continue with the same filters and order.", field="after"
        )
    return value, key


def _fits(value: ColumnValue, order: Column | None) -> bool:
    if value is None or order is None:
        return value is None
    return isinstance(value, order.stored_as) and (not isinstance(value, int) or -(2**63) <= value < 2**63)


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


def declared_accesses(model: ReadModel) -> list[tuple[tuple[str, ...], str | None]]:
    """Each declared filter with each declared order, once.

    All rows of a filter have the same value in its fields: to order by one of these is to order by key.
    """
    pairs = product(((), *model.find_by), (None, *model.order_by))
    return list(dict.fromkeys((group, None if order in group else order) for group, order in pairs))


def is_text(key: str) -> bool:
    """Whether a store can hold a key: half of a surrogate pair is not text in any of them."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
