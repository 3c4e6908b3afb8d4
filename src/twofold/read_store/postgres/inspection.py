"""Raw rows of a schema for audits, however corrupt they are."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twofold.read_store.access import is_text
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel
from twofold.read_store.postgres.rows import KEY_AND_ROW
from twofold.read_store.postgres.rows_columns import Statement
from twofold.read_store.postgres.schema_names import (
    begins_like,
    escaped,
    key_of,
    short_key,
    unescaped,
)

_KINDS: Mapping[str, tuple[str, ...]] = {
    "bigint": ("number", "moment"),
    "double precision": ("number",),
    "numeric": ("number",),
    "text": ("text", "decimal"),
}
"""By the type of a column, which its name ends with, the kinds it may be of. Days and UUIDs are stored as text."""
_BEHIND_DIGITS = "g"
_WHOLE = "coalesce(whole_key, key)"
"""A key as it sorts by code points, also where it was cut."""


Fetch = Callable[[Statement], Awaitable[Sequence[Any]]]
"""Runs a statement. It returns no records where the table does not exist."""


async def rows_after(
    fetch: Fetch, table: str, model: ReadModel | None, key: str, limit: int
) -> list[tuple[str, RawRow]]:
    """See `ReadStoreMaintenance.raw_rows`. In the order of whole keys. `model` is None where it was not prepared."""
    first, whole = begins_like(key), escaped(key)
    sql = f"select * from {table} where key >= $1 and {_WHOLE} > $2"
    records = list(await fetch((f"{sql} order by key limit $3", [first, whole, limit])))
    if not records or records[-1]["whole_key"] is None:
        return _rows(model, sorted(records, key=_whole))
    # Of those that were cut and begin the same way, these need not be the first ones.
    beginning = begins_like(key_of(records[-1]["key"], records[-1]["whole_key"]))
    others = [record for record in records if not record["key"].startswith(beginning)]
    sql = f"{sql} and key < $3 order by {_WHOLE} limit $4"
    arguments = [max(first, beginning), whole, f"{beginning}{_BEHIND_DIGITS}", limit - len(others)]
    return _rows(model, sorted(others, key=_whole) + list(await fetch((sql, arguments))))


async def rows_of(fetch: Fetch, table: str, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
    """See `ReadStoreMaintenance.inspect`."""
    requested = [short_key(key) for key in keys if is_text(key)]
    sql = f"select * from {table} where key = any($1::text[])"
    return dict(_rows(model, await fetch((sql, [requested]))))


def _rows(model: ReadModel | None, records: Sequence[Mapping[str, Any]]) -> list[tuple[str, RawRow]]:
    names = [name for name in (records[0].keys() if records else ()) if name not in KEY_AND_ROW]
    # The name of a column that was too long does not say which field it is for.
    columns = {name: name.rpartition(":") for name in names if "~" not in name}
    columns = {name: column for name, column in columns.items() if not column[2].startswith("whole")}
    kinds = {field: _KINDS["text" if kind.startswith("text") else kind] for field, _, kind in columns.values()}
    reader = RawRowReader(kinds, model)
    rows: list[tuple[str, RawRow]] = []
    for record in records:
        values = {
            field: _value(record[name], record.get(f"{field}:whole{kind.removeprefix('text')}"))
            for name, (field, _, kind) in columns.items()
        }
        row = raw_row(reader.read(record["row"]), record["position"], record["repair"], values)
        rows.append((key_of(record["key"], record["whole_key"]), row))
    return rows


def _value(value: Any, whole: str | None) -> object:
    """The value in a column, together with the whole, if it was cut."""
    if not isinstance(value, str):
        return value
    if whole is None:
        return unescaped(value)
    # The last character is the mark that it was cut.
    return unescaped(whole) if whole.startswith(value[:-1]) else f"{unescaped(value)} and {unescaped(whole)}"


def _whole(record: Mapping[str, Any]) -> str:
    """The order of text in Python is that of code points, too."""
    key: str | None = record["whole_key"]
    return record["key"] if key is None else key
