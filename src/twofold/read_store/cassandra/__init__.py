"""In charge of read models in Cassandra: many processes write, and finds read tables made for what is declared."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from twofold.errors import Unavailable, WiringError
from twofold.read_store.access import check_access
from twofold.read_store.cassandra.address import address_of
from twofold.read_store.cassandra.checkpoints import Checkpoints
from twofold.read_store.cassandra.driver import Driver, Forbidden, Missing
from twofold.read_store.cassandra.finding import find
from twofold.read_store.cassandra.layout import Layout, access_name, text_of
from twofold.read_store.cassandra.looking import Looking
from twofold.read_store.cassandra.preparing import Preparing, make_keyspace
from twofold.read_store.cassandra.tables import Tables
from twofold.read_store.partition import Partition
from twofold.read_store.port import Change, Checkpoint, FindPage, Native, Progress, RawRow, ReadModel, VersionedRow
from twofold.world import RealWorld, World

_Models = dict[tuple[str, int], Tables]

_LOOKS = 20
_PAUSE = 0.2


class CassandraReadStore:
    """Read models in one keyspace of a cluster. Rows are saved before their checkpoint, and may be saved again.

    All reads and writes wait for a majority of the copies in one datacenter.
    """

    def __init__(self, driver: Driver, identity: str, *, read_only: bool, world: World) -> None:
        self.identity = identity
        self._driver = driver
        self._read_only = read_only
        self._world = world
        self._checkpoints = Checkpoints(driver)
        self._preparing = Preparing(driver, self._checkpoints, world)
        self._models: _Models = {}

    @classmethod
    async def open(
        cls, url: str, *, read_only: bool = False, patience: float = 10.0, world: World | None = None
    ) -> "CassandraReadStore":
        """The read store a `cassandra://` URL names. What fails in passing is tried again for `patience` seconds.

        WiringError for a URL that cannot be read, an account or a server that does not do; Unavailable where nobody
        answers.
        """
        address = address_of(url)
        world = world or RealWorld()
        driver = await Driver.open(address, world, patience)
        try:
            if not read_only:
                await make_keyspace(driver)
            await driver.settle()
            identity = await _identity(driver, world, read_only=read_only)
        except BaseException as error:
            await driver.close()
            if isinstance(error, Forbidden):
                raise WiringError(
                    f"{error} Let it create keyspaces, or create this one and let it create tables."
                ) from error
            raise
        return cls(driver, identity, read_only=read_only, world=world)

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            layout = Layout(model)
            prepare = self._preparing.expect if self._read_only else self._preparing.prepare
            try:
                self._models[model.name, model.generation] = await prepare(layout)
            except Forbidden as error:
                raise WiringError(f"{error} Let it create, alter and drop tables, read and write them.") from error

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        return await _of(self._models, model).load(keys)

    async def save(self, change: Change) -> None:
        self._refuse_if_read_only()
        tables = _of(self._models, change.model)
        if change.rows:
            await self._checkpoints.expect(change, tables.build)
            await tables.save(change.rows)
        await self._checkpoints.advance(change, tables.build, self._world.new_id())

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["_CassandraSnapshot"]:
        yield _CassandraSnapshot(self._driver, self._checkpoints, self._models)

    async def checkpoints(self) -> list[Checkpoint]:
        try:
            return await self._checkpoints.all()
        except Missing:
            return []

    async def close(self) -> None:
        await self._driver.close()

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_if_read_only()
        _of(self._models, model)
        await self._checkpoints.repartition(model, old, new, self._world.new_id())

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._models.get((name, generation))
        looking = await self._looking(name, generation, known.layout.model if known else None)
        return [] if looking is None else await looking.behind(after, limit)

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        looking = await self._looking(model.name, model.generation, model)
        return {} if looking is None else await looking.of(keys)

    async def drop(self, name: str, generation: int) -> None:
        self._refuse_if_read_only()
        self._models.pop((name, generation), None)
        await self._preparing.drop(name, generation)

    async def _looking(self, name: str, generation: int, model: ReadModel | None) -> Looking | None:
        """None where there is no such generation."""
        try:
            now = await self._checkpoints.of(name, generation)
        except Missing:
            return None
        if now.build is None:
            return None
        standing = partial(self._checkpoints.of, name, generation)
        return Looking(self._driver, name, generation, standing, now, model, self._world.sleep)

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise Unavailable(f"{self._driver.address.shown} is open for reading only. Ask the process that writes.")


class _CassandraSnapshot:
    """Looks as it is asked: Cassandra holds no moment still."""

    def __init__(self, driver: Driver, checkpoints: Checkpoints, models: _Models) -> None:
        self._driver = driver
        self._checkpoints = checkpoints
        self._models = models

    async def get(self, model: ReadModel, key: str) -> Any | None:
        return await _of(self._models, model).get(key)

    async def find(
        self,
        model: ReadModel,
        filters: Mapping[str, Any],
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int,
        cursor: str | None = None,
    ) -> FindPage:
        tables = _of(self._models, model)
        layout = tables.layout
        access = check_access(model, layout.columns, filters, order_by, descending, limit, cursor)
        if access.matches_nothing:
            return FindPage([], None)
        parts = layout.parts(access.group, access.values)
        after = None if access.after is None else (text_of(access.after[0]), access.after[1])
        name = access_name(access.group, access.order)
        # One more than asked for tells whether there is a next page.
        found = await find(self._driver, tables.finds, name, parts, limit + 1, after=after, back=descending)
        rows = [(each.key, layout.decode(each.row)) for each in found[:limit]]
        if len(found) <= limit:
            return FindPage(rows, None)
        key, row = rows[-1]
        return FindPage(rows, access.cursor(layout.value(row, access.order), key))

    async def progress(self, model: ReadModel) -> Progress:
        _of(self._models, model)
        return (await self._checkpoints.of(model.name, model.generation)).progress()

    def native(self, model: ReadModel) -> Native:
        return Native(self._driver.session, _of(self._models, model).rows)


def _of(models: _Models, model: ReadModel) -> Tables:
    try:
        return models[model.name, model.generation]
    except KeyError as error:
        raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error


async def _identity(driver: Driver, world: World, *, read_only: bool) -> str:
    """The keyspace's identity. Where nodes make one keyspace at once, its tables may come a moment later."""
    if read_only:
        return await Checkpoints(driver).identity(None)
    for _ in range(_LOOKS):
        try:
            return await Checkpoints(driver).identity(world.new_id())
        except Missing:
            await world.sleep(_PAUSE)
            await make_keyspace(driver)
            await driver.settle()
    return await Checkpoints(driver).identity(world.new_id())
