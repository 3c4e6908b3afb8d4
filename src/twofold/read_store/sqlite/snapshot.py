"""A view of one moment: a read transaction on its own connection."""

import os
from collections.abc import Mapping
from typing import Any, Unpack

import apsw

from twofold.read_store.access import check_access, fetch_until, find_page
from twofold.read_store.port import FindOptions, FindPage, Native, Progress, ReadModel
from twofold.read_store.refusals import prepared
from twofold.read_store.sqlite.checkpoints import generation_progress, is_parked
from twofold.read_store.sqlite.finds import Statement, find_statements
from twofold.read_store.sqlite.rows import SqliteTable
from twofold.sqlite_file import DiskErrors

Tables = dict[tuple[str, int], SqliteTable]


class SqliteSnapshot:
    """What `reader` sees in its transaction. A table dropped since is still there, in the file as in `tables`."""

    def __init__(self, path: str | os.PathLike[str], reader: apsw.Connection, tables: Tables) -> None:
        self._path = path
        self._reader = reader
        self._tables = tables

    async def get(self, model: ReadModel, key: str) -> Any | None:
        table = prepared(self._tables, model)
        with DiskErrors(self._path):
            record = self._reader.execute(table.select, (key,)).fetchone()
        return None if record is None else table.decode(record[0])

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        table = prepared(self._tables, model)
        access = check_access(model, table.columns, filters, **options)
        return await find_page(
            access,
            lambda count: fetch_until(count, find_statements(table, access), self._fetch),
            lambda record: (record[0], table.decode(record[1])),
        )

    async def progress(self, model: ReadModel) -> Progress:
        prepared(self._tables, model)
        with DiskErrors(self._path):
            return generation_progress(self._reader, model.name, model.generation)

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        prepared(self._tables, model)
        with DiskErrors(self._path):
            return is_parked(self._reader, model.name, model.generation, key)

    def native(self, model: ReadModel) -> Native:
        return Native(self._reader, prepared(self._tables, model).name)

    async def _fetch(self, statement: Statement, count: int) -> list[Any]:
        sql, parameters = statement
        with DiskErrors(self._path):
            return self._reader.execute(sql, (*parameters, count)).fetchall()
