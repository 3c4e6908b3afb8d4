"""The SQL of finds.

The planner has to take the index of the find, whatever the statistics say: it must not believe that the matching rows
are so many that it finds them soon in another index of the same order, filtering on the way, when they are few and far
behind. So no other index has the same order: behind n columns the key is indexed, and requested, as `key || '' …`, n
times.
"""

from collections.abc import Iterator
from typing import Any

from twofold.read_store.access import Access
from twofold.read_store.postgres.rows import PostgresTable, key_behind
from twofold.read_store.postgres.rows_columns import PostgresColumn, Statement
from twofold.read_store.postgres.schema_names import short_key


def find_statements(table: PostgresTable, access: Access, *, exact: bool = False) -> Iterator[Statement]:
    """The statements, without their limit, that answer a find one by one until there are enough rows.

    Only a find that continues at a None, or may run into them, takes two: SQL compares None with nothing. Their
    records are key, whole key, row, and whether the value it is ordered by was cut. Such values come in the right order
    only with `exact`, which sorts the rows that begin the same way.
    """
    order = table.fields[access.order] if access.order else None
    find = _Find(table, access, order, exact)
    if access.after is None:
        yield find.statement()
    elif order is None:
        yield find.statement(f"{find.key} {find.beyond} {find.argument(short_key(access.after[1]))}")
    else:
        yield from find.continued(order, *access.after)


def needs_exact(table: PostgresTable, access: Access) -> bool:
    """Whether a find continues behind a value that was cut."""
    if access.order is None or access.after is None:
        return False
    return table.fields[access.order].stored(access.after[0]).whole is not None


class _Find:
    """One find as SQL. The arguments of each statement are numbered from 1."""

    def __init__(self, table: PostgresTable, access: Access, order: PostgresColumn | None, exact: bool) -> None:
        self._table = table
        self._access = access
        self._order = order
        self._exact = exact and order is not None and order.whole is not None
        self.key = key_behind(len(access.group) + (order is not None))
        self._arguments: list[Any] = []
        self.beyond = "<" if access.descending else ">"

    def argument(self, value: Any) -> str:
        self._arguments.append(value)
        return f"${len(self._arguments)}"

    def continued(self, order: PostgresColumn, value: Any, key: str) -> Iterator[Statement]:
        """What comes behind the row of a key whose order value is this one."""
        key = short_key(key)
        if value is None:
            yield self.statement(f"{order.name} is null and {self.key} {self.beyond} {self.argument(key)}")
            if not self._access.descending:
                yield self.statement(f"{order.name} is not null")
            return
        stored = order.stored(value)
        if stored.whole is None:
            last = f"{self.argument(stored.value)}, {self.argument(key)}"
            yield self.statement(f"({order.name}, {self.key}) {self.beyond} ({last})")
        else:
            head = self.argument(stored.value)
            last = f"{self.argument(stored.whole)}, {self.argument(key)}"
            # All that begin the same way, and those behind.
            yield self.statement(
                f"{order.name} {self.beyond}= {head}"
                f" and ({order.name} {self.beyond} {head} or ({order.whole}, key) {self.beyond} ({last}))"
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

    def _equal(self, column: PostgresColumn, value: Any) -> str:
        stored = column.stored(value)
        if stored.value is None:
            return f"{column.name} is null"
        equal = f"{column.name} = {self.argument(stored.value)}"
        return equal if stored.whole is None else f"{equal} and {column.whole} = {self.argument(stored.whole)}"

    def _sequence(self) -> str:
        """The order of the index, filters included: the server leaves out those that are equal, but not `is null`."""
        ordered = [self._table.fields[name].name for name in self._access.group]
        if self._order is not None:
            ordered.append(self._order.name)
            if self._exact:
                ordered.append(self._order.whole or "")
        descending = self._access.descending
        direction = "desc nulls last" if descending else "asc nulls first"
        return ", ".join([*(f"{name} {direction}" for name in ordered), f"{self.key} desc" if descending else self.key])
