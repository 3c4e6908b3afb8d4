"""In charge of one read model's table in SQLite: its SQL, and the way of rows into it and out of it.

A table holds key, row (JSON), the row's version (position and repair number) and a column per declared field; each
declared access has an index of its own, named in the statement, so that a find reads no row it does not return,
whatever the planner believes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import msgspec

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.access import Access
from twofold.read_store.columns import ColumnValue, columns_of
from twofold.read_store.corruption import DECODE_ERRORS, corrupt_row
from twofold.read_store.port import ReadModel, VersionedRow

_ESCAPED = re.compile("(?:%[0-9a-f]{2})+")
_encode = msgspec.json.Encoder().encode


class Table:
    """One read model as SQLite keeps it."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.columns = columns_of(model)
        self.name = table_name(model.name, model.generation)
        self.column_names = {field: _column_name(field, c.kind) for field, c in self.columns.items()}
        self.indexes = dict(self._indexes())
        names = ["key", "row", "position", "repair", *self.column_names.values()]
        marks = ", ".join("?" for _ in names)
        renewed = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        self.create = (
            f"create table if not exists {self.name}"
            " (key text primary key not null, row, position integer not null, repair integer not null) without rowid"
        )
        self.upsert = (
            f"insert into {self.name} ({', '.join(names)}) values ({marks}) on conflict (key) do update set {renewed}"
            " where (excluded.repair, excluded.position) > (repair, position)"
        )
        # The same rows again, with columns that were added since.
        self.fill = f"replace into {self.name} ({', '.join(names)}) values ({marks})"
        self.select = f"select key, row from {self.name} where key = ?"
        # One statement for any number of keys; `cross join` looks each of them up, whatever the planner believes.
        self.select_many = (
            "select kept.key, kept.row, kept.position, kept.repair"
            f" from json_each(?) wanted cross join {self.name} kept on kept.key = wanted.value"
        )
        self.delete = f"delete from {self.name} where key = ? and (repair, position) < (?, ?)"
        self.decode = _decoder(model)
        self._plain = all(column.plain for column in self.columns.values())

    def parameters(self, rows: Mapping[str, VersionedRow]) -> Iterator[tuple[Any, ...]]:
        """Parameters of `upsert` for the rows that are not None. InvalidMessage for a value without column value.

        One by one: as a list they would wake the garbage collector, for nothing.
        """
        getters = [column.get for column in self.columns.values()]
        if not getters:
            for key, kept in rows.items():
                if kept.row is not None:
                    yield key, _encode(kept.row), kept.position, kept.repair
        elif not self._plain:
            for key, kept in rows.items():
                if kept.row is not None:
                    yield key, _encode(kept.row), kept.position, kept.repair, *self._values(kept.row)
        elif len(getters) == 1:
            (get,) = getters
            for key, kept in rows.items():
                if kept.row is not None:
                    yield key, _encode(kept.row), kept.position, kept.repair, get(kept.row)
        else:
            for key, kept in rows.items():
                row = kept.row
                if row is not None:
                    yield key, _encode(row), kept.position, kept.repair, *[get(row) for get in getters]

    def check(self, rows: Mapping[str, VersionedRow]) -> None:
        """InvalidMessage, naming key and field, for the first row that cannot be stored."""
        for key, kept in rows.items():
            try:
                key.encode()
                if kept.row is not None:
                    _encode(kept.row)
                    self._values(kept.row)
            except InvalidMessage as error:
                raise InvalidMessage(f"Row '{key}' of '{self.model.name}': {error}", field=error.field) from error
            except (TypeError, ValueError) as error:
                raise InvalidMessage(f"Row {key!r} of '{self.model.name}' cannot be stored: {error}.") from error

    def row(self, stored: bytes) -> Any:
        """The row of its JSON. Unavailable, naming the cure, where it cannot be read as one."""
        try:
            return self.decode(stored)
        except DECODE_ERRORS as error:
            raise corrupt_row(self.model, error) from error

    def finds(self, access: Access) -> Iterator[tuple[str, list[ColumnValue]]]:
        """The statements, with parameters, that answer a find, one by one until there are enough rows.

        Only a find that continues at a None, or may run into them, takes two: SQL compares None with nothing.
        """
        order = self.column_names[access.order] if access.order else None
        if access.after is None:
            yield self._find(access, order, "", [])
        elif order is None:
            yield self._find(access, order, f"key {_beyond(access)} ?", [access.after[1]])
        else:
            yield from self._continued(access, order, *access.after)

    def _continued(
        self, access: Access, order: str, value: ColumnValue, key: str
    ) -> Iterator[tuple[str, list[ColumnValue]]]:
        if value is None:
            yield self._find(access, order, f"{order} is null and key {_beyond(access)} ?", [key])
            if not access.descending:
                yield self._find(access, order, f"{order} is not null", [])
            return
        yield self._find(access, order, f"({order}, key) {_beyond(access)} (?, ?)", [value, key])
        if access.descending:
            yield self._find(access, order, f"{order} is null", [])

    def _find(
        self, access: Access, order: str | None, where: str, parameters: list[ColumnValue]
    ) -> tuple[str, list[ColumnValue]]:
        filters = [
            f"{self.column_names[field]} is null" if value is None else f"{self.column_names[field]} = ?"
            for field, value in zip(access.group, access.values, strict=True)
        ]
        given = [value for value in access.values if value is not None]
        conditions = " and ".join([*filters, where] if where else filters)
        direction = " desc" if access.descending else ""
        index = self.index_name(access.group, access.order)
        sql = (
            f"select key, row, {order or 'null'} from {self.name}{f' indexed by {index}' if index else ''}"
            f"{f' where {conditions}' if conditions else ''}"
            f" order by {f'{order}{direction}, ' if order else ''}key{direction} limit ?"
        )
        return sql, [*given, *parameters]

    def index_name(self, group: tuple[str, ...], order: str | None) -> str | None:
        """The index that serves a filter and an order; None for the primary key."""
        if not group and order is None:
            return None
        by = ",".join(self.column_names[field].strip('"') for field in (*group, *([order] if order else [])))
        return quoted(f"find {escaped(self.model.name)}@{self.model.generation} {by}")

    def _indexes(self) -> Iterator[tuple[str, str]]:
        for group, order in product(((), *self.model.find_by), (None, *self.model.order_by)):
            fields = (*group, *([order] if order and order not in group else []))
            name = self.index_name(group, order if order not in group else None)
            if name is not None:
                columns = ", ".join([*(self.column_names[field] for field in fields), "key"])
                yield name, f"create index if not exists {name} on {self.name} ({columns})"

    def _values(self, row: Any) -> list[ColumnValue]:
        return [column.value(column.get(row)) for column in self.columns.values()]


def table_name(model: str, generation: int) -> str:
    """The table of one generation of a read model, quoted."""
    return quoted(f"rows of {escaped(model)}@{generation}")


def escaped(name: str) -> str:
    """A name as text that SQL cannot misread and that stays different where only upper and lower case differ."""
    return re.sub(
        "[^a-z0-9_-]", lambda found: "".join(f"%{b:02x}" for b in found.group().encode("utf-8", "surrogatepass")), name
    )


def field_and_kind(column: str) -> tuple[str, str]:
    """The field that a column, quoted, is made for, and its kind."""
    name, _, kind = column.strip('"').rpartition(":")
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), name), kind


def quoted(name: str) -> str:
    """An escaped name as an SQL identifier."""
    return f'"{name}"'


def _column_name(field: str, kind: str) -> str:
    return quoted(f"{escaped(field)}:{kind}")


def _beyond(access: Access) -> str:
    return "<" if access.descending else ">"


def _decoder(model: ReadModel) -> Callable[[bytes], Any]:
    try:
        return msgspec.json.Decoder(model.row).decode
    except TypeError as error:
        raise WiringError(f"Rows of '{model.name}' cannot be stored as JSON: {model.row.__name__}: {error}.") from error
