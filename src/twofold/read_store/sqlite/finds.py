"""The SQL of finds.

Each statement names its index, so that a find reads no row that it does not return, whatever the planner believes.
"""

from collections.abc import Iterator

from twofold.read_store.access import Access
from twofold.read_store.columns import ColumnValue
from twofold.read_store.sqlite.rows import SqliteTable

Statement = tuple[str, list[ColumnValue]]
"""SQL and its parameters, but for the limit, which is the last one."""


def find_statements(table: SqliteTable, access: Access) -> Iterator[Statement]:
    """The statements that answer a find, one by one until there are enough rows. Their records are key and row.

    Only a find that continues at a None, or may run into them, takes two: SQL compares None with nothing.
    """
    order = table.column_names[access.order] if access.order else None
    beyond = "<" if access.descending else ">"
    if access.after is None:
        yield _statement(table, access)
        return
    value, key = access.after
    if order is None:
        yield _statement(table, access, f"key {beyond} ?", key)
    elif value is None:
        yield _statement(table, access, f"{order} is null and key {beyond} ?", key)
        if not access.descending:
            yield _statement(table, access, f"{order} is not null")
    else:
        yield _statement(table, access, f"({order}, key) {beyond} (?, ?)", value, key)
        if access.descending:
            yield _statement(table, access, f"{order} is null")


def _statement(table: SqliteTable, access: Access, where: str = "", *parameters: ColumnValue) -> Statement:
    names = table.column_names
    filters = [
        f"{names[field]} is null" if value is None else f"{names[field]} = ?"
        for field, value in zip(access.group, access.values, strict=True)
    ]
    conditions = " and ".join([*filters, where] if where else filters)
    index = table.indexes.get((access.group, access.order))
    direction = " desc" if access.descending else ""
    sql = (
        f"select key, row from {table.name}{f' indexed by {index}' if index else ''}"
        f"{f' where {conditions}' if conditions else ''}"
        f" order by {f'{names[access.order]}{direction}, ' if access.order else ''}key{direction} limit ?"
    )
    return sql, [*(value for value in access.values if value is not None), *parameters]
