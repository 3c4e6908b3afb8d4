"""In charge of what a keyspace contains: made, built anew for other filters and orders, taken away.

What is declared now is never added to tables that are there: they are built anew, under names that nobody else uses,
and then take the place of the old ones in one conditional statement. Meanwhile nobody saves into the old ones: they are
*sealed*. So a process that runs with the declarations of before can spoil nothing, and two that build at once neither.
"""

import logging

from twofold.errors import TwofoldError, Unavailable
from twofold.read_store.cassandra.checkpoints import Checkpoints, Standing
from twofold.read_store.cassandra.driver import Driver, Missing
from twofold.read_store.cassandra.layout import Layout, build_name, is_table_of
from twofold.read_store.cassandra.tables import Tables
from twofold.read_store.partition import shares
from twofold.world import World

log = logging.getLogger(__name__)

_COPIES = 3
_KEYSPACES = "select keyspace_name from system_schema.keyspaces where keyspace_name = ?"
_TABLES = "select table_name from system_schema.tables where keyspace_name = ?"


async def make_keyspace(driver: Driver) -> None:
    """Make the keyspace and the table of checkpoints, where they are not there. WiringError where we may not."""
    keyspace = driver.address.keyspace
    if not await driver.rows(_KEYSPACES, keyspace):
        where = f"'{driver.address.datacenter}'" if driver.address.datacenter else "'replication_factor'"
        copies = driver.address.replication or min(_COPIES, driver.nodes)
        define = (
            f"create keyspace if not exists {keyspace} with replication ="
            f" {{'class': 'NetworkTopologyStrategy', {where}: {copies}}}"
        )
        await driver.define(define)
    if ("checkpoints",) not in await driver.rows(_TABLES, keyspace):
        await Checkpoints(driver).make()


class Preparing:
    """Brings read models up to what is declared."""

    def __init__(self, driver: Driver, checkpoints: Checkpoints, world: World) -> None:
        self._driver = driver
        self._checkpoints = checkpoints
        self._world = world

    async def prepare(self, layout: Layout) -> Tables:
        """The tables of a read model, made where they are missing, built anew where they are for other accesses.

        WiringError, naming the cure, where the rows stored no longer fit the row type.
        """
        model = layout.model
        while True:
            standing = await self._checkpoints.of(model.name, model.generation, decided=True)
            tables = await self._begin(layout) if standing.build is None else await self._settle(layout, standing)
            if tables is not None:
                return tables

    async def expect(self, layout: Layout) -> Tables:
        """The tables of a read model. Unavailable, naming what is missing, where they are not there as declared."""
        model = layout.model
        cure = "Start the app that writes it with the same modules."
        try:
            standing = await self._checkpoints.of(model.name, model.generation)
        except Missing:
            standing = Standing()
        if standing.build is None:
            raise Unavailable(
                f"{self._driver.address.shown} has no table of read model '{model.name}' generation {model.generation} "
                f"yet. {cure}"
            )
        if standing.declared != layout.declared:
            raise Unavailable(
                f"{self._driver.address.shown} has other filters and orders of read model '{model.name}' generation "
                f"{model.generation} than are declared: {standing.declared}. {cure}"
            )
        return Tables(self._driver, layout, standing.build)

    async def drop(self, name: str, generation: int) -> None:
        """Take away all that is kept of a generation."""
        await self._checkpoints.erase(name, generation)
        await self._drop(name, generation, but=None)

    async def _begin(self, layout: Layout) -> Tables | None:
        """The tables of a generation that is new; None where another process came first."""
        tables = await self._make(layout)
        partitions = shares(layout.model.partitions)
        if await self._checkpoints.begin(layout.model, tables.build, layout.declared, partitions):
            return tables
        await self._remove(tables)
        return None

    async def _settle(self, layout: Layout, standing: Standing) -> Tables | None:
        """The tables that are there, or such as take their place; None where another process came first."""
        model, build, seal = layout.model, standing.build or "", standing.seal
        there = Tables(self._driver, layout, build)
        if standing.declared == layout.declared:
            # Sealed by a process that did not come to an end, or that will find out that it is too late.
            if seal is not None and not await self._checkpoints.unseal(model, build, seal, build, layout.declared):
                return None
            await there.check()
            return there
        if seal is None:
            seal = self._world.new_id()
            if not await self._checkpoints.seal(model, build, seal):
                return None
        log.info("%s: the rows are put into tables for other filters and orders", model.name)
        new = await self._make(layout)
        try:
            await new.copy(there.rows)
            placed = await self._checkpoints.unseal(model, build, seal, new.build, layout.declared)
        except TwofoldError:
            await self._remove(new)
            now = await self._checkpoints.of(model.name, model.generation, decided=True)
            if now.build != build or now.seal != seal:
                # What was being copied has been taken away: another process has done the work.
                return None
            await self._checkpoints.unseal(model, build, seal, build, standing.declared)
            raise
        if not placed:
            await self._remove(new)
            return None
        await self._drop(model.name, model.generation, but=new.build)
        return new

    async def _make(self, layout: Layout) -> Tables:
        tables = Tables(self._driver, layout, build_name(self._world.new_id()))
        await tables.make()
        return tables

    async def _remove(self, tables: Tables) -> None:
        for table in (tables.rows, tables.finds):
            await self._driver.define(f"drop table if exists {table}")

    async def _drop(self, name: str, generation: int, *, but: str | None) -> None:
        """Drop the tables of all builds of a generation, `but` one."""
        keyspace = self._driver.address.keyspace
        for (table,) in await self._driver.rows(_TABLES, keyspace):
            if is_table_of(table, name, generation) and not (but and table.endswith(f"_{but}")):
                await self._driver.define(f"drop table if exists {keyspace}.{table}")
