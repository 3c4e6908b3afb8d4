"""In charge of where read models stand: a document for each, with all of its partitions, changed by compare-and-set.

_id         the model's id; beside it `name` and `generation`
partitions  by name, where each stands
columns     the columns that all rows have, or are being given: `filled` says that they have them
layout      which change made the partitions what they are
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.read_store.mongodb.client import Client
from twofold.read_store.mongodb.finds import Table
from twofold.read_store.mongodb.names import CHECKPOINTS
from twofold.read_store.partition import Partition, partition_named, same_slots, shares
from twofold.read_store.port import Change
from twofold.world import World

_PAUSE = 0.05


class Stand(msgspec.Struct, frozen=True):
    """Where a partition stands. `save` names the save that brought it there, `entered` the one that is under way."""

    position: int = 0
    log: str = ""
    updated: int = 0
    epoch: int = 0
    save: str = ""
    entered: str = ""


class Standing(msgspec.Struct, frozen=True, rename={"id": "_id"}):
    """Where one generation of a read model stands, as it is stored."""

    id: str
    name: str
    generation: int
    partitions: dict[str, Stand]
    columns: tuple[str, ...] = ()
    filled: bool = False
    layout: str = ""

    @property
    def parts(self) -> dict[Partition, Stand]:
        """The partitions, in order."""
        return dict(sorted((partition_named(name), stand) for name, stand in self.partitions.items()))

    @property
    def under_way(self) -> set[str]:
        """The saves that have been entered and not ended."""
        return {stand.entered for stand in self.partitions.values() if stand.entered}


class Standings:
    """Where all read models of a database stand."""

    def __init__(self, client: Client, world: World) -> None:
        self._client = client
        self._world = world
        self._documents = client.collection(CHECKPOINTS, latest=True)
        # What need not last: the checkpoint is written after it, and would not last without it.
        self._passing = self._documents.with_options(write_concern=WriteConcern(1))

    async def of(self, table: Table) -> Standing | None:
        """Where a model stands; None where it was never prepared."""
        return await self._client.patiently(lambda: self._find(table.id))

    async def declare(self, table: Table) -> Standing:
        """Have a model written with the columns of `table` from now on, by whom so ever. Makes it where it is new."""
        return await self._client.patiently(lambda: self._declare(table))

    async def columns(self, model: str) -> tuple[str, ...]:
        """The columns that all rows of a model have, which is given by its id; none where they are being given them."""
        standing = await self._client.patiently(lambda: self._find(model))
        return standing.columns if standing and standing.filled else ()

    async def filled(self, table: Table) -> None:
        """Note that all rows have the columns of `table`, unless others are declared by now."""
        mine = {"_id": table.id, "columns": {"$eq": _columns(table)}}
        await self._client.patiently(lambda: self._documents.update_one(mine, {"$set": {"filled": True}}))

    async def quiet(self, table: Table) -> None:
        """Return when the saves that are under way have ended, or have had time to."""
        deadline = self._world.monotonic() + self._client.patience
        waited_for = await self._under_way(table)
        while waited_for and self._world.monotonic() < deadline:
            await self._world.sleep(_PAUSE)
            waited_for &= await self._under_way(table)

    @asynccontextmanager
    async def saving(self, table: Table, change: Change) -> AsyncGenerator[str]:
        """The name of a save, for `advance`, and a note that it is under way. Raises as `enter` does."""
        save = self._world.new_id()
        await self.enter(table, change, save)
        try:
            yield save
        except TwofoldError:
            # Where not even that is possible, others will wait in vain for a while.
            with contextlib.suppress(Unavailable):
                await self._leave(table, change, save)
            raise

    async def enter(self, table: Table, change: Change, save: str) -> None:
        """Shut out earlier epochs than that of a change; raises what `advance` would, as things stand now."""
        at = f"partitions.{change.partition.name}"
        step = {"$max": {f"{at}.epoch": change.epoch}, "$set": {f"{at}.entered": save}}
        done = await self._client.patiently(lambda: self._passing.find_one_and_update(_guard(table, change), step))
        if done is None:
            raise _refusal(table, change, await self.of(table))

    async def advance(self, table: Table, change: Change, save: str) -> None:
        """Move a checkpoint on. Conflict where it is not as the change expects it, and Unavailable where the model has
        been declared otherwise.
        """
        at = f"partitions.{change.partition.name}"
        stand = Stand(change.position, change.log, change.now, change.epoch, save)
        step = {"$set": {at: msgspec.to_builtins(stand)}}
        done = await self._client.patiently(lambda: self._documents.find_one_and_update(_guard(table, change), step))
        if done is not None:
            return
        standing = await self.of(table)
        # An answer that was lost on the way is no conflict.
        if standing is None or save not in {each.save for each in standing.partitions.values()}:
            raise _refusal(table, change, standing)

    async def repartition(self, table: Table, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        """See `ReadStoreMaintenance.repartition`."""
        refusal = Conflict(
            f"The partitions of read model '{table.model.name}' have changed, or stand at several positions."
        )
        standing = await self.of(table)
        known = standing.parts if standing else {}
        merged = [known[each] for each in old if each in known]
        if len(merged) < len(old) or len({(each.position, each.log) for each in merged}) != 1:
            raise refusal
        if not same_slots(old, new):
            raise refusal
        layout = self._world.new_id()
        stand = msgspec.structs.replace(merged[0], epoch=max(each.epoch for each in merged), entered="")
        unchanged = {
            f"partitions.{each.name}.{field}": getattr(known[each], field)
            for each in old
            for field in ("position", "log", "epoch")
        }
        step: dict[str, Any] = {
            "$set": {f"partitions.{each.name}": msgspec.to_builtins(stand) for each in new} | {"layout": layout},
            "$unset": {f"partitions.{each.name}": "" for each in old if each not in new},
        }
        step = {operator: fields for operator, fields in step.items() if fields}
        done = await self._client.patiently(
            lambda: self._documents.find_one_and_update({"_id": table.id, **unchanged}, step)
        )
        if done is None:
            standing = await self.of(table)
            if standing is None or standing.layout != layout:
                raise refusal

    async def remove(self, model: str) -> None:
        """Take away where a model stands, which is given by its id: from now on nothing of it can be saved."""
        await self._client.patiently(lambda: self._documents.delete_one({"_id": model}))

    async def _leave(self, table: Table, change: Change, save: str) -> None:
        at = f"partitions.{change.partition.name}.entered"
        mine = {"_id": table.id, at: save}
        await self._client.patiently(lambda: self._passing.update_one(mine, {"$set": {at: ""}}))

    async def _under_way(self, table: Table) -> set[str]:
        standing = await self.of(table)
        return standing.under_way if standing else set()

    async def _find(self, model: str) -> Standing | None:
        found = await self._documents.find_one({"_id": model})
        return None if found is None else msgspec.convert(found, Standing)

    async def _declare(self, table: Table) -> Standing:
        columns = _columns(table)
        while True:
            known = await self._find(table.id)
            if known is None:
                await self._make(table)
            elif list(known.columns) == columns:
                return known
            else:
                filled = known.filled and set(columns) <= set(known.columns)
                was = {"_id": table.id, "columns": {"$eq": list(known.columns)}, "filled": known.filled}
                await self._documents.update_one(was, {"$set": {"columns": columns, "filled": filled}})

    async def _make(self, table: Table) -> None:
        model = table.model
        parts = {each.name: Stand() for each in shares(model.partitions)}
        made = Standing(table.id, model.name, model.generation, parts, tuple(_columns(table)))
        try:
            await self._documents.insert_one(msgspec.to_builtins(made))
        except DuplicateKeyError:
            # Another node was faster; what it made is looked at next.
            return


def _refusal(table: Table, change: Change, standing: Standing | None) -> TwofoldError:
    name = table.model.name
    stand = standing.partitions.get(change.partition.name) if standing else None
    if standing is None or stand is None:
        return Conflict(f"Read model '{name}' has no partition {change.partition.name} any more.")
    foreign = [each for each in standing.columns if each not in table.column_names.values()]
    if foreign:
        return Unavailable(
            f"Read model '{name}' has been declared to be found or ordered by {', '.join(foreign)} as well. "
            "Restart this process with the same modules as the one that declared it."
        )
    return Conflict(
        f"Read model '{name}' is at {stand.position} of log '{stand.log}', not at {change.before} of log "
        f"'{change.expected}', or a later epoch than {change.epoch} keeps it."
    )


def _columns(table: Table) -> list[str]:
    return sorted(table.column_names.values())


def _guard(table: Table, change: Change) -> Mapping[str, Any]:
    at = f"partitions.{change.partition.name}"
    return {
        "_id": table.id,
        f"{at}.position": change.before,
        f"{at}.log": {"$in": ["", change.expected]},
        f"{at}.epoch": {"$lte": change.epoch},
        # No column that this process does not write: rows without it would be found by nobody.
        "columns": {"$not": {"$elemMatch": {"$nin": _columns(table)}}},
    }
