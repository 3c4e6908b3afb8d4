"""In charge of looking at what a SQLite file holds of a read model's rows, whatever has become of them."""

from collections.abc import Iterable, Sequence

import apsw
import msgspec

from twofold.read_store.access import is_text
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel
from twofold.read_store.sqlite_schema import columns_there
from twofold.read_store.sqlite_table import field_and_kind, table_name

_ALWAYS = ("key", "row", "position", "repair")


def stored_behind(
    connection: apsw.Connection, name: str, generation: int, model: ReadModel | None, after: str, limit: int
) -> list[tuple[str, RawRow]]:
    """See `ReadStoreMaintenance.raw_rows`. `model` is None where it was not prepared."""
    looking = _Looking(connection, table_name(name, generation), model)
    return looking.look(f"from {looking.table} kept where key > ? order by key limit ?", (after, limit))


def stored_of(connection: apsw.Connection, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
    """See `ReadStoreMaintenance.inspect`."""
    looking = _Looking(connection, table_name(model.name, model.generation), model)
    wanted = msgspec.json.encode([key for key in keys if is_text(key)]).decode()
    return dict(
        looking.look(f"from json_each(?) wanted cross join {looking.table} kept on kept.key = wanted.value", (wanted,))
    )


class _Looking:
    """One table, with whatever columns it has."""

    def __init__(self, connection: apsw.Connection, table: str, model: ReadModel | None) -> None:
        self.table = table
        self._connection = connection
        there = columns_there(connection, table)
        self._columns = {name: field_and_kind(name) for name in sorted(there) if name.strip('"') not in _ALWAYS}
        self._there = bool(there)
        self._reader = RawRowReader({field: (kind,) for field, kind in self._columns.values()}, model)

    def look(self, source: str, parameters: Iterable[str | int]) -> list[tuple[str, RawRow]]:
        if not self._there:
            return []
        names = ", ".join(f"kept.{name}" for name in (*_ALWAYS, *self._columns))
        fields = [field for field, _ in self._columns.values()]
        found: list[tuple[str, RawRow]] = []
        for key, row, position, repair, *values in self._connection.execute(
            f"select {names} {source}", tuple(parameters)
        ):
            read = self._reader.read(row)
            found.append((str(key), raw_row(read, position, repair, dict(zip(fields, values, strict=True)))))
        return found
