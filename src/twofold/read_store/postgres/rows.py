"""One read model's table: its columns and indexes, and rows on their way into it and out of it.

A table holds key, row (JSON, as it was written), the row's version (position and repair number), and a column per
declared field; each declared access has its own index, in the order of the find.
"""

from collections.abc import Mapping

import msgspec

from twofold.errors import InvalidMessage
from twofold.read_store.access import declared_accesses
from twofold.read_store.columns import columns_of
from twofold.read_store.corruption import row_decoder
from twofold.read_store.port import ReadModel, VersionedRow
from twofold.read_store.postgres.rows_columns import Array, key_arrays, postgres_columns, whole_numbers
from twofold.read_store.postgres.schema_names import escaped, fitting, qualified, quoted, table_name
from twofold.read_store.refusals import cannot_store

_encode = msgspec.json.Encoder().encode

CHECKPOINTS = "checkpoints"
PARKED = "parked"
KEY_AND_ROW = ("key", "whole_key", "row", "position", "repair")
"""The columns of every table."""


class PostgresTable:
    """One read model as PostgreSQL stores it in a schema."""

    def __init__(self, model: ReadModel, schema: str) -> None:
        self.model = model
        self.columns = columns_of(model)
        accesses = [(*group, *([order] if order else [])) for group, order in declared_accesses(model)]
        self.fields = postgres_columns(self.columns, accesses)
        self.rows_in = table_name(model.name, model.generation)
        self.name = qualified(schema, self.rows_in)
        self.added = dict(column for field in self.fields.values() for column in field.columns)
        self.names = (*KEY_AND_ROW, *self.added)
        # Processes that declare different fields must not write to one table: each would leave the other's out.
        self.layout = " ".join(sorted(self.added))
        self.indexes = dict(self._index(access) for access in accesses if access)
        self.create = (
            f'create table if not exists {self.name} (key text collate "C" primary key, whole_key text collate "C",'
            " row json not null, position bigint not null, repair int not null)"
        )
        self.select = f"select row::text from {self.name} where key = $1"
        # The checkpoints of the model, and behind them the row or null.
        self.lookup = (
            f'select first, "end", position, log, updated, parked, null from {qualified(schema, CHECKPOINTS)}'
            f" where rows_in = $1 union all select 0, 0, 0, '', 0, '',"
            f" (select row::text from {self.name} where key = $2)"
        )
        self.select_many = f"select {', '.join(KEY_AND_ROW)} from {self.name} where key = any($1::text[])"
        self.decode = row_decoder(model)

    def arrays(self, rows: Mapping[str, VersionedRow]) -> list[Array]:
        """Keys, rows, versions and columns as arguments, in the order of `names`, and how each is written in SQL.

        For rows that are not None. TypeError, ValueError or InvalidMessage where one cannot be stored.
        """
        values = [new.row for new in rows.values()]
        return [
            *key_arrays(list(rows)),
            ([_encode(row).decode() for row in values], "$::text[]::json[]"),
            whole_numbers([new.position for new in rows.values()]),
            whole_numbers([new.repair for new in rows.values()]),
            *(array for field in self.fields.values() for array in field.arrays(values)),
        ]

    def check(self, rows: Mapping[str, VersionedRow]) -> None:
        """InvalidMessage, naming key and field, for the first row that cannot be stored."""
        for key, new in rows.items():
            try:
                escaped(key)
                if new.row is not None:
                    _encode(new.row)
                    for field in self.fields.values():
                        field.stored(field.column.of(new.row))
            except (InvalidMessage, TypeError, ValueError) as error:
                raise cannot_store(self.model, key, error) from error

    def _index(self, access: tuple[str, ...]) -> tuple[str, str]:
        fields = [self.fields[name].name for name in access]
        by = ",".join(fields).replace('"', "")
        name = quoted(fitting(f"{self.rows_in} by {by}"))
        columns = ", ".join([*(f"{field} nulls first" for field in fields), key_behind(len(fields))])
        return name, f"create index if not exists {name} on {self.name} ({columns})"


def key_behind(columns: int) -> str:
    """The key as the last column of an index. See `finds` for why it depends on their number."""
    return f"(key{_NOTHING * columns})" if columns else "key"


_NOTHING = " || ''"
