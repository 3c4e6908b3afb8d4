"""Snapshots: each read sees the moment it runs at, since Cassandra cannot read as of an earlier one."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from twofold.read_store.access import check_access
from twofold.read_store.cassandra.checkpoints import CassandraCheckpoints
from twofold.read_store.cassandra.connection import CassandraConnection
from twofold.read_store.cassandra.finds import IndexedRow, find
from twofold.read_store.cassandra.rows import access_name, text_of
from twofold.read_store.cassandra.saving import CassandraTables
from twofold.read_store.paging import find_page
from twofold.read_store.port import FindOptions, FindPage, Native, Progress, ReadModel


class CassandraSnapshot:
    """See `Snapshot`."""

    def __init__(
        self,
        connection: CassandraConnection,
        checkpoints: CassandraCheckpoints,
        tables_of: Callable[[ReadModel], CassandraTables],
    ) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._tables_of = tables_of

    async def get(self, model: ReadModel, key: str) -> Any | None:
        return await self._tables_of(model).get(key)

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        tables = self._tables_of(model)
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
        self._tables_of(model)
        return (await self._checkpoints.state(model.name, model.generation)).progress()

    def native(self, model: ReadModel) -> Native:
        return Native(self._connection.session, self._tables_of(model).rows)
