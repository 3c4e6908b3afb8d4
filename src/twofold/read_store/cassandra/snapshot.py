"""Snapshots: each read sees the moment it runs at, since Cassandra cannot read as of an earlier one."""

from collections.abc import Mapping
from typing import Any, Unpack

from twofold.read_store.access import check_access, find_page
from twofold.read_store.cassandra.checkpoints import CassandraCheckpoints
from twofold.read_store.cassandra.connection import CassandraConnection
from twofold.read_store.cassandra.finds import IndexedRow, find
from twofold.read_store.cassandra.rows import access_name, text_of
from twofold.read_store.cassandra.saving import CassandraTables
from twofold.read_store.port import FindOptions, FindPage, Native, Progress, ReadModel
from twofold.read_store.refusals import prepared


class CassandraSnapshot:
    """See `Snapshot`."""

    def __init__(
        self,
        connection: CassandraConnection,
        checkpoints: CassandraCheckpoints,
        tables: Mapping[tuple[str, int], CassandraTables],
    ) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._tables = tables

    async def get(self, model: ReadModel, key: str) -> Any | None:
        return await prepared(self._tables, model).get(key)

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        tables = prepared(self._tables, model)
        layout = tables.layout
        access = check_access(model, layout.columns, filters, **options)
        name = access_name(access.group, access.order)
        after = None if access.after is None else (text_of(access.after[0]), access.after[1])

        async def fetch(count: int) -> list[IndexedRow]:
            partitions = [(name, part) for part in layout.parts(access.group, access.values)]
            return await find(
                self._connection, tables.finds, partitions, count, after=after, descending=access.descending
            )

        return await find_page(access, fetch, lambda indexed: (indexed.key, layout.decode(indexed.row)))

    async def progress(self, model: ReadModel) -> Progress:
        prepared(self._tables, model)
        return await self._checkpoints.progress(model.name, model.generation)

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        prepared(self._tables, model)
        return await self._checkpoints.is_parked(model.name, model.generation, key)

    def native(self, model: ReadModel) -> Native:
        return Native(self._connection.session, prepared(self._tables, model).rows)
