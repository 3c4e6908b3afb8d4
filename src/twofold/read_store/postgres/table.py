"""In charge of one read model's table: its columns and indexes, rows on their way in and out, and the SQL of finds.

A table holds key, row (JSON, as it was written), the row's version (position and repair number), and a column per
declared field; each declared access has an index of its own, in the order of the find.

The planner has to take that index, whatever the statistics say: it must not believe that rows which match are so many
that it finds them soon in another index of the same order, filtering as it goes, when they are few and far behind. So
no other index has the same order: behind n columns the key is indexed, and asked for, as `key || '' …`, n times.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import msgspec

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.access import Access
from twofold.read_store.columns import columns_of
from twofold.read_store.corruption import corrupt_row
from twofold.read_store.port import ReadModel, VersionedRow
from twofold.read_store.postgres.arguments import Array, Statement, whole_numbers
from twofold.read_store.postgres.fields import Field, fields_of
from twofold.read_store.postgres.names import fitting, quoted, table_name
from twofold.read_store.postgres.text import all_short, escaped, short_key, whole_key

_encode = msgspec.json.Encoder().encode

CHECKPOINTS = "checkpoints"
PARKED = "parked"
ALWAYS = ("key", "whole_key", "row", "position", "repair")


class Table:
    """One read model as PostgreSQL keeps it in a schema."""

    def __init__(self, model: ReadModel, schema: str) -> None:
        self.model = model
        self.columns = columns_of(model)
        accesses = list(_accesses(model))
        self.fields = fields_of(self.columns, accesses)
        self.rows_in = table_name(model.name, model.generation)
        self.name = qualified(schema, self.rows_in)
        self.added = dict(column for field in self.fields.values() for column in field.columns)
        self.names = (*ALWAYS, *self.added)
        # Two processes that declare different fields do not write to one table: each would leave the other's out.
        self.layout = " ".join(sorted(self.added))
        self.indexes = dict(self._index(access) for access in accesses if access)
        self.create = (
            f'create table if not exists {self.name} (key text collate "C" primary key, whole_key text collate "C",'
            " row json not null, position bigint not null, repair int not null)"
        )
        self.select = f"select row::text from {self.name} where key = $1"
        self.select_many = f"select {', '.join(ALWAYS)} from {self.name} where key = any($1::text[])"
        self.decode = _decoder(model)

    def arrays(self, rows: Mapping[str, VersionedRow]) -> list[Array]:
        """Keys, rows, versions and columns as arguments, in the order of `names`, and how each is written in SQL.

        For rows that are not None. TypeError, ValueError or InvalidMessage where one cannot be kept.
        """
        values = [kept.row for kept in rows.values()]
        return [
            *key_arrays(list(rows)),
            ([_encode(row).decode() for row in values], "$::text[]::json[]"),
            whole_numbers([kept.position for kept in rows.values()]),
            whole_numbers([kept.repair for kept in rows.values()]),
            *(array for field in self.fields.values() for array in field.arrays(values)),
        ]

    def check(self, rows: Mapping[str, VersionedRow]) -> None:
        """InvalidMessage, naming key and field, for the first row that cannot be stored."""
        for key, kept in rows.items():
            try:
                escaped(key)
                if kept.row is not None:
                    _encode(kept.row)
                    for field in self.fields.values():
                        field.place(field.column.value(field.column.get(kept.row)))
            except InvalidMessage as error:
                raise InvalidMessage(f"Row '{key}' of '{self.model.name}': {error}", field=error.field) from error
            except (TypeError, ValueError) as error:
                raise InvalidMessage(f"Row {key!r} of '{self.model.name}' cannot be stored: {error}.") from error

    def row(self, stored: str) -> Any:
        """The row of its JSON. Unavailable, naming the cure, where the row type has changed since."""
        try:
            return self.decode(stored)
        except msgspec.DecodeError as error:
            raise corrupt_row(self.model, error) from error

    def finds(self, access: Access, *, exact: bool = False) -> Iterator[Statement]:
        """The statements, without their limit, that answer a find one by one until there are enough rows.

        Only a find that continues at a None, or may run into them, takes two: SQL compares None with nothing. Each
        answers key, whole key, row, and whether the value it is ordered by was cut. Such values come in the right
        order only where it is to be `exact`: then rows that begin alike are sorted.
        """
        order = self.fields[access.order] if access.order else None
        find = _Find(self, access, order, exact)
        if access.after is None:
            yield find.statement()
        elif order is None:
            yield find.statement(f"{find.key} {find.beyond} {find.argument(short_key(access.after[1]))}")
        else:
            yield from find.continued(order, *access.after)

    def needs_exact(self, access: Access) -> bool:
        """Whether a find continues behind a value that was cut."""
        if access.order is None or access.after is None:
            return False
        return self.fields[access.order].place(access.after[0]).whole is not None

    def _index(self, access: Sequence[str]) -> tuple[str, str]:
        fields = [self.fields[name].name for name in access]
        by = ",".join(fields).replace('"', "")
        name = quoted(fitting(f"{self.rows_in} by {by}"))
        columns = ", ".join([*(f"{each} nulls first" for each in fields), _key_behind(len(fields))])
        return name, f"create index if not exists {name} on {self.name} ({columns})"


class _Find:
    """One find as SQL, with its arguments numbered anew for each statement."""

    def __init__(self, table: Table, access: Access, order: Field | None, exact: bool) -> None:
        self._table = table
        self._access = access
        self._order = order
        self._exact = exact and order is not None and order.whole is not None
        self.key = _key_behind(len(access.group) + (order is not None))
        self._arguments: list[Any] = []
        self.beyond = "<" if access.descending else ">"

    def argument(self, value: Any) -> str:
        self._arguments.append(value)
        return f"${len(self._arguments)}"

    def continued(self, order: Field, value: Any, key: str) -> Iterator[Statement]:
        """What comes behind the row of a key whose order value is this one."""
        key = short_key(key)
        if value is None:
            yield self.statement(f"{order.name} is null and {self.key} {self.beyond} {self.argument(key)}")
            if not self._access.descending:
                yield self.statement(f"{order.name} is not null")
            return
        place = order.place(value)
        if place.whole is None:
            given = f"{self.argument(place.value)}, {self.argument(key)}"
            yield self.statement(f"({order.name}, {self.key}) {self.beyond} ({given})")
        else:
            head = self.argument(place.value)
            given = f"{self.argument(place.whole)}, {self.argument(key)}"
            # All that begin alike, and those behind.
            yield self.statement(
                f"{order.name} {self.beyond}= {head}"
                f" and ({order.name} {self.beyond} {head} or ({order.whole}, key) {self.beyond} ({given}))"
            )
        if self._access.descending:
            yield self.statement(f"{order.name} is null")

    def statement(self, where: str = "") -> Statement:
        filters = [
            self._equal(self._table.fields[name], value)
            for name, value in zip(self._access.group, self._access.values, strict=True)
        ]
        conditions = " and ".join([*filters, *([where] if where else [])])
        cut = f"{self._order.whole} is not null" if self._order and self._order.whole else "false"
        sql = (
            f"select key, whole_key, row::text, {cut} from {self._table.name}"
            f"{f' where {conditions}' if conditions else ''} order by {self._sequence()}"
        )
        arguments, self._arguments = self._arguments, []
        return sql, arguments

    def _equal(self, field: Field, value: Any) -> str:
        place = field.place(value)
        if place.value is None:
            return f"{field.name} is null"
        equal = f"{field.name} = {self.argument(place.value)}"
        return equal if place.whole is None else f"{equal} and {field.whole} = {self.argument(place.whole)}"

    def _sequence(self) -> str:
        """The order of the index, filters included: the server leaves out those that are equal, but not `is null`."""
        ordered = [self._table.fields[name].name for name in self._access.group]
        if self._order is not None:
            ordered.append(self._order.name)
            if self._exact:
                ordered.append(self._order.whole or "")
        down = self._access.descending
        direction = "desc nulls last" if down else "asc nulls first"
        return ", ".join([*(f"{each} {direction}" for each in ordered), f"{self.key} desc" if down else self.key])


def _key_behind(columns: int) -> str:
    """The key as the last column of an index."""
    return f"(key{_NOTHING * columns})" if columns else "key"


_NOTHING = " || ''"


def qualified(schema: str, name: str) -> str:
    """A table as SQL names it."""
    return f"{quoted(schema)}.{quoted(name)}"


def key_arrays(keys: Sequence[str]) -> list[Array]:
    """Keys as two arguments: what stands for them in a primary key, and the whole of those that are too long."""
    short = keys if all_short(keys) else [short_key(key) for key in keys]
    whole = None if short is keys else [whole_key(key) for key in keys]
    return [(short, "$::text[]"), (whole, "$::text[]")]


def _accesses(model: ReadModel) -> Iterator[tuple[str, ...]]:
    """The fields of each declared access, in the order of its index; none for all rows by key."""
    for group, order in product(((), *model.find_by), (None, *model.order_by)):
        yield (*group, *([order] if order and order not in group else []))


def _decoder(model: ReadModel) -> Callable[[str], Any]:
    try:
        return msgspec.json.Decoder(model.row).decode
    except TypeError as error:
        raise WiringError(f"Rows of '{model.name}' cannot be stored as JSON: {model.row.__name__}: {error}.") from error
