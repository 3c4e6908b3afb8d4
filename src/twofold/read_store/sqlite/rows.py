"""One read model's table in SQLite: its names and statements, and rows on their way into it and out of it.

A table holds key, row (JSON), the row's version (position and repair number) and a column per declared field. Each
declared access has its own index.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from twofold.errors import InvalidMessage
from twofold.read_store.access import declared_accesses
from twofold.read_store.columns import columns_of
from twofold.read_store.corruption import row_decoder
from twofold.read_store.port import ReadModel, VersionedRow
from twofold.read_store.refusals import cannot_store

KEY_AND_ROW = ("key", "row", "position", "repair")
"""The columns of every table."""

_ESCAPED = re.compile("(?:%[0-9a-f]{2})+")
_encode = msgspec.json.Encoder().encode


class SqliteTable:
    """One read model as SQLite stores it."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.columns = columns_of(model)
        self.name = table_name(model.name, model.generation)
        self.column_names = {field: quoted(f"{escaped(field)}:{c.kind}") for field, c in self.columns.items()}
        self.indexes = {access: self._index_name(access) for access in declared_accesses(model) if any(access)}
        names = [*KEY_AND_ROW, *self.column_names.values()]
        values = f"({', '.join(names)}) values ({', '.join('?' for _ in names)})"
        renewed = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        self.upsert = (
            f"insert into {self.name} {values} on conflict (key) do update set {renewed}"
            " where (excluded.repair, excluded.position) > (repair, position)"
        )
        # Writes the same rows again, with columns that were added since.
        self.fill = f"replace into {self.name} {values}"
        self.select = f"select row from {self.name} where key = ?"
        # The checkpoints of the model, and behind them the row or null.
        self.lookup = (
            'select first, "end", position, log, updated, parked, null from checkpoints'
            " where model = ? and generation = ? union all"
            f" select 0, 0, 0, '', 0, '', (select row from {self.name} where key = ?)"
        )
        # One statement for any number of keys; `cross join` makes the planner look each of them up.
        self.select_many = (
            "select stored.key, stored.row, stored.position, stored.repair"
            f" from json_each(?) requested cross join {self.name} stored on stored.key = requested.value"
        )
        self.delete = f"delete from {self.name} where key = ? and (repair, position) < (?, ?)"
        self.decode = row_decoder(model)

    def parameters(self, rows: Mapping[str, VersionedRow]) -> Iterator[tuple[Any, ...]]:
        """Parameters of `upsert` for the rows that are not None. InvalidMessage for a value without column value.

        One by one: a list of them would start the garbage collector for nothing.
        """
        plain = all(column.plain for column in self.columns.values())
        getters = [column.get if plain else column.of for column in self.columns.values()]
        if not getters:
            for key, new in rows.items():
                if new.row is not None:
                    yield key, _encode(new.row), new.position, new.repair
        elif len(getters) == 1:
            (get,) = getters
            for key, new in rows.items():
                if new.row is not None:
                    yield key, _encode(new.row), new.position, new.repair, get(new.row)
        else:
            for key, new in rows.items():
                row = new.row
                if row is not None:
                    yield key, _encode(row), new.position, new.repair, *[get(row) for get in getters]

    def check(self, rows: Mapping[str, VersionedRow]) -> None:
        """InvalidMessage, naming key and field, for the first row that cannot be stored."""
        for key, new in rows.items():
            try:
                key.encode()
                if new.row is not None:
                    _encode(new.row)
                    for column in self.columns.values():
                        column.of(new.row)
            except (InvalidMessage, TypeError, ValueError) as error:
                raise cannot_store(self.model, key, error) from error

    def _index_name(self, access: tuple[tuple[str, ...], str | None]) -> str:
        group, order = access
        by = ",".join(self.column_names[field].strip('"') for field in (*group, *([order] if order else [])))
        return quoted(f"find {escaped(self.model.name)}@{self.model.generation} {by}")


def table_name(model: str, generation: int) -> str:
    """The table of one generation of a read model, quoted."""
    return quoted(f"rows of {escaped(model)}@{generation}")


def escaped(name: str) -> str:
    """A name as text that SQL cannot misread and that stays different where only upper and lower case differ."""
    return re.sub(
        "[^a-z0-9_-]", lambda match: "".join(f"%{b:02x}" for b in match.group().encode("utf-8", "surrogatepass")), name
    )


def field_and_kind(column: str) -> tuple[str, str]:
    """The field that a column, quoted, is made for, and its kind."""
    name, _, kind = column.strip('"').rpartition(":")
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode(errors="replace"), name), kind


def quoted(name: str) -> str:
    return f'"{name}"'
