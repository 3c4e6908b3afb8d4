"""Raw rows of a SQLite file for audits, however corrupt they are."""

from collections.abc import Sequence

import apsw
import msgspec

from twofold.read_store.access import is_text
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel
from twofold.read_store.sqlite.rows import KEY_AND_ROW, field_and_kind, quoted
from twofold.read_store.sqlite.schema import columns_there


def rows_after(
    connection: apsw.Connection, table: str, model: ReadModel | None, key: str, limit: int
) -> list[tuple[str, RawRow]]:
    """See `ReadStoreMaintenance.raw_rows`. `model` is None where it was not prepared."""
    return _rows(connection, table, model, f"from {table} stored where key > ? order by key limit ?", (key, limit))


def rows_of(connection: apsw.Connection, table: str, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
    """See `ReadStoreMaintenance.inspect`."""
    requested = msgspec.json.encode([key for key in keys if is_text(key)]).decode()
    source = f"from json_each(?) requested cross join {table} stored on stored.key = requested.value"
    return dict(_rows(connection, table, model, source, (requested,)))


def _rows(
    connection: apsw.Connection, table: str, model: ReadModel | None, source: str, parameters: tuple[str | int, ...]
) -> list[tuple[str, RawRow]]:
    there = columns_there(connection, table)
    if not there:
        return []
    columns = {column: field_and_kind(column) for column in sorted(there - set(map(quoted, KEY_AND_ROW)))}
    reader = RawRowReader({field: (kind,) for field, kind in columns.values()}, model)
    names = ", ".join(f"stored.{name}" for name in (*KEY_AND_ROW, *columns))
    fields = [field for field, _ in columns.values()]
    return [
        (str(key), raw_row(reader.read(row), position, repair, dict(zip(fields, values, strict=True))))
        for key, row, position, repair, *values in connection.execute(f"select {names} {source}", parameters)
    ]
