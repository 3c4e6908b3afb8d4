"""Raw rows of a SQLite file for audits, however corrupt they are."""

from collections.abc import Sequence

import apsw
import msgspec

from twofold.read_store.access import is_text
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel
from twofold.read_store.sqlite.rows import KEY_AND_ROW, field_and_kind, quoted, table_name
from twofold.read_store.sqlite.schema import columns_there


class SqliteRowInspector:
    """One table, with the columns that it has. `model` is None where it was not prepared."""

    def __init__(self, connection: apsw.Connection, name: str, generation: int, model: ReadModel | None) -> None:
        self._connection = connection
        self._table = table_name(name, generation)
        there = columns_there(connection, self._table)
        self._columns = {column: field_and_kind(column) for column in sorted(there - set(map(quoted, KEY_AND_ROW)))}
        self._exists = bool(there)
        self._reader = RawRowReader({field: (kind,) for field, kind in self._columns.values()}, model)

    def rows_after(self, key: str, limit: int) -> list[tuple[str, RawRow]]:
        """See `ReadStoreMaintenance.raw_rows`."""
        return self._rows(f"from {self._table} stored where key > ? order by key limit ?", (key, limit))

    def rows_of(self, keys: Sequence[str]) -> dict[str, RawRow]:
        """See `ReadStoreMaintenance.inspect`."""
        requested = msgspec.json.encode([key for key in keys if is_text(key)]).decode()
        source = f"from json_each(?) requested cross join {self._table} stored on stored.key = requested.value"
        return dict(self._rows(source, (requested,)))

    def _rows(self, source: str, parameters: tuple[str | int, ...]) -> list[tuple[str, RawRow]]:
        if not self._exists:
            return []
        names = ", ".join(f"stored.{name}" for name in (*KEY_AND_ROW, *self._columns))
        fields = [field for field, _ in self._columns.values()]
        return [
            (str(key), raw_row(self._reader.read(row), position, repair, dict(zip(fields, values, strict=True))))
            for key, row, position, repair, *values in self._connection.execute(f"select {names} {source}", parameters)
        ]
