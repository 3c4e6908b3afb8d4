"""The rows of the read store contract, and short ways to save and find them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from twofold.read_store.parked_summary import ParkedNames
from twofold.read_store.port import Change, FindPage, Parked, Progress, ReadModel, ReadStore, VersionedRow

LOG = "log-a"
HOSTILE = (
    "'; drop table checkpoints; --",
    '"quoted"',
    "$where",
    "%_\\",
    "\U0001f4a5é",
    "a\x00b",
    "key",
    "ROW",
    "x" * 1024,
)


class Size(Enum):
    """Whose values sort otherwise than their names."""

    BIG = "b"
    SMALL = "a"


class Order(msgspec.Struct, frozen=True):
    """The row of most tests."""

    customer: str = "ann"
    total: int = 0
    note: str | None = None


class Everything(msgspec.Struct, frozen=True):
    """A field of each type that rows may be found and ordered by."""

    text: str | None = None
    whole: int | None = None
    real: float | None = None
    yes: bool | None = None
    moment: datetime | None = None
    day: date | None = None
    id: UUID | None = None
    money: Decimal | None = None
    size: Size | None = None
    state: Literal["new", "paid"] | None = None


FIELDS = Everything.__struct_fields__
ORDERS = ReadModel("orders", 1, Order, (("customer",), ("customer", "note")), ("total", "note"))
EVERYTHING = ReadModel("everything", 1, Everything, tuple((field,) for field in FIELDS), FIELDS)

TEXT = st.text(st.characters(codec="utf-8"), max_size=4)
_WHOLE = st.integers(-(2**63), 2**63 - 1)
_EARLY, _LATE = datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2100-01-01")
_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])
ANYTHING = st.builds(
    Everything,
    text=st.none() | TEXT,
    whole=st.none() | st.integers(-2, 2) | _WHOLE,
    real=st.none() | st.sampled_from([0.0, -0.0, 1.5]) | st.floats(allow_nan=False, allow_infinity=False),
    yes=st.none() | st.booleans(),
    moment=st.none() | st.datetimes(_EARLY, _LATE, timezones=_ZONES),
    day=st.none() | st.dates(),
    id=st.none() | st.uuids(),
    money=st.none()
    | st.sampled_from([Decimal("1.0"), Decimal("1.00"), Decimal("-0")])
    | st.decimals(allow_nan=False, allow_infinity=False),
    size=st.none() | st.sampled_from(Size),
    state=st.none() | st.sampled_from(["new", "paid"]),
)


def sorted_dict(
    rows: Mapping[str, Any], filters: Mapping[str, Any], order_by: str | None, descending: bool
) -> list[str]:
    """The keys that a find must return, computed in the simplest way."""
    matching = {key: row for key, row in rows.items() if all(getattr(row, f) == v for f, v in filters.items())}

    def sort_key(key: str) -> tuple[Any, ...]:
        value = getattr(matching[key], order_by) if order_by else None
        value = value.value if isinstance(value, Enum) else value
        return (False, key) if value is None else (True, value, key)

    return sorted(matching, key=sort_key, reverse=descending)


async def keep(
    store: ReadStore,
    model: ReadModel,
    rows: Mapping[str, Any],
    *,
    before: int = 0,
    position: int | None = None,
    parked: Mapping[str, Parked | None] | None = None,
) -> None:
    """Prepare a model and save one change of it, as a follower does: with the previous rows."""
    await store.prepare([model])
    reached = before + 1 if position is None else position
    known = await loaded(store, model, list(rows))
    changed = {key: VersionedRow(row, reached, 0, (known[key],) if key in known else ()) for key, row in rows.items()}
    names = ParkedNames(each.key for each in await parked_keys(store, model)) if parked else None
    summary = names.changed(parked).summary if names and parked else None
    await store.save(Change(model, LOG, before, reached, 0, changed, parked or {}, summary=summary))


def at(position: int, rows: Mapping[str, Any]) -> dict[str, VersionedRow]:
    """Rows as the event at a position made them."""
    return {key: VersionedRow(row, position) for key, row in rows.items()}


async def loaded(store: ReadStore, model: ReadModel, keys: Sequence[str]) -> dict[str, Any]:
    """The rows of many keys without their versions, those that were deleted left out."""
    found = await store.load(model, keys)
    return {key: kept.row for key, kept in found.items() if kept.row is not None}


async def find(
    store: ReadStore,
    model: ReadModel,
    filters: Mapping[str, Any] | None = None,
    *,
    order_by: str | None = None,
    descending: bool = False,
    limit: int = 10_000,
    cursor: str | None = None,
) -> FindPage:
    """One find in a snapshot of its own."""
    async with store.snapshot() as snapshot:
        return await snapshot.find(
            model, filters or {}, order_by=order_by, descending=descending, limit=limit, cursor=cursor
        )


async def found_rows(store: ReadStore, *question: Any, **options: Any) -> Sequence[tuple[str, Any]]:
    """Keys and rows of one find."""
    return (await find(store, *question, **options)).rows


async def keys(store: ReadStore, *question: Any, **options: Any) -> list[str]:
    """Keys of one find."""
    return [key for key, _ in await found_rows(store, *question, **options)]


async def progress(store: ReadStore, model: ReadModel) -> Progress:
    """Progress in a snapshot of its own."""
    async with store.snapshot() as snapshot:
        return await snapshot.progress(model)


async def parked_keys(store: ReadStore, model: ReadModel) -> tuple[Parked, ...]:
    """All parked keys of a model, by key."""
    checkpoints = [at for at in await store.checkpoints() if (at.name, at.generation) == (model.name, model.generation)]
    return tuple(sorted((parked for at in checkpoints for parked in at.parked), key=lambda parked: parked.key))


async def all_pages(
    store: ReadStore, model: ReadModel, filters: Mapping[str, Any], order_by: str | None, descending: bool, size: int
) -> list[list[str]]:
    """The keys of every page of a find, cursor by cursor."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        found = await find(store, model, filters, order_by=order_by, descending=descending, limit=size, cursor=cursor)
        pages.append([key for key, _ in found.rows])
        assert found.cursor is None or found.cursor != cursor, "A page led back to itself."
        cursor = found.cursor
        if cursor is None:
            return pages
