"""In charge of looking at what a schema holds of a read model's rows, whatever has become of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel
from twofold.read_store.postgres.arguments import Statement
from twofold.read_store.postgres.table import ALWAYS
from twofold.read_store.postgres.text import begins_like, escaped, key_of, short_key, unescaped

Fetch = Callable[[Statement], Awaitable[Sequence[Any]]]

_KINDS: Mapping[str, tuple[str, ...]] = {
    "bigint": ("number", "moment"),
    "double precision": ("number",),
    "numeric": ("number",),
    "text": ("text", "decimal"),
}
"""By the type of a column, which its name ends with, the kinds it may be of. Days and UUIDs are kept as their text."""
_BEHIND_DIGITS = "g"
_WHOLE = "coalesce(whole_key, key)"
"""A key as it sorts by code points, also where it was cut."""


async def behind(fetch: Fetch, table: str, after: str, limit: int) -> list[Any]:
    """At most `limit` records behind a key, in the order of whole keys."""
    first, whole = begins_like(after), escaped(after)
    sql = f"select * from {table} where key >= $1 and {_WHOLE} > $2"
    found = list(await fetch((f"{sql} order by key limit $3", [first, whole, limit])))
    if not found or found[-1]["whole_key"] is None:
        return sorted(found, key=_whole)
    # Of those that begin alike and were cut, it need not be the first ones.
    alike = begins_like(key_of(found[-1]["key"], found[-1]["whole_key"]))
    others = [each for each in found if not each["key"].startswith(alike)]
    sql = f"{sql} and key < $3 order by {_WHOLE} limit $4"
    same = await fetch((sql, [max(first, alike), whole, f"{alike}{_BEHIND_DIGITS}", limit - len(others)]))
    return sorted(others, key=_whole) + list(same)


def of(table: str, keys: Sequence[str]) -> Statement:
    """What asks for the records of some keys."""
    return f"select * from {table} where key = any($1::text[])", [[short_key(key) for key in keys]]


def stored(records: Sequence[Mapping[str, Any]], model: ReadModel | None) -> list[tuple[str, RawRow]]:
    """What these records hold. `model` is None where it was not prepared."""
    names = [name for name in (records[0].keys() if records else ()) if name not in ALWAYS]
    # A name that was too long tells nothing any more.
    columns = {name: name.rpartition(":") for name in names if "~" not in name}
    kinds = {
        field: _KINDS["text" if kind.startswith("text") else kind]
        for field, _, kind in columns.values()
        if not kind.startswith("whole")
    }
    reader = RawRowReader(kinds, model)
    return [
        (
            key_of(each["key"], each["whole_key"]),
            raw_row(reader.read(each["row"]), each["position"], each["repair"], _found(each, columns)),
        )
        for each in records
    ]


def _found(record: Mapping[str, Any], columns: Mapping[str, tuple[str, str, str]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, (field, _, kind) in columns.items():
        if not kind.startswith("whole"):
            found[field] = _told(record[name], record.get(f"{field}:whole{kind.removeprefix('text')}"))
    return found


def _told(value: Any, whole: str | None) -> object:
    """The value that a column holds, together with that of the whole, if it was cut."""
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
