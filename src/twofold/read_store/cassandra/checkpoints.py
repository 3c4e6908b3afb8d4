"""Checkpoints, parked keys, and which build of a read model's tables is in use.

All of it is in one table, in one partition for each generation: checkpoints, parked keys and, in static columns, the
build. Only conditional statements change it, with Cassandra's own clock; so a save, or a change of the partitions, is
all or nothing, and of two that contradict each other one is refused.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from twofold.errors import Conflict, Unavailable
from twofold.read_store import refusals
from twofold.read_store.cassandra.connection import CassandraConnection, CassandraRow, Statement, batch
from twofold.read_store.cassandra.errors import OutcomeUnknown, TableMissing
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel

_PARKED = -1
"""In the column `first`, marks parked keys: they stay where they are when partitions change."""
_PARKED_PER_STATEMENT = 200

_COLUMNS = 'build, declared, seal, first, key, "end", log, position, epoch, updated, save, error, since, waiting, upto'
_GENERATION = "model = ? and generation = ?"
_PARTITION = f"{_GENERATION} and first = ? and key = ''"
_UNCHANGED = "if build = ? and seal = null and \"end\" = ? and position = ? and epoch <= ? and log in (?, '')"


class PartitionCheckpoint(msgspec.Struct, frozen=True):
    """The checkpoint of a partition. `save` is the id of the save that wrote it."""

    partition: Partition
    log: str
    position: int
    epoch: int
    updated: int
    save: str


class GenerationState(msgspec.Struct, frozen=True):
    """All about one generation. `seal` is set while its tables are rebuilt; it is the id of that rebuild."""

    build: str | None = None
    declared: str = ""
    seal: str | None = None
    partitions: tuple[PartitionCheckpoint, ...] = ()
    parked: tuple[Parked, ...] = ()

    def progress(self) -> Progress:
        """How far the generation has come."""
        if not self.partitions:
            return Progress(0, "", 0)
        lowest = min(self.partitions, key=lambda state: state.position)
        return Progress(lowest.position, lowest.log, max(state.updated for state in self.partitions), self.parked)


class CassandraCheckpoints:
    """The table of checkpoints in one keyspace."""

    def __init__(self, connection: CassandraConnection) -> None:
        self._connection = connection
        self._table = f"{connection.address.keyspace}.checkpoints"
        self._select = f"select {_COLUMNS} from {self._table} where {_GENERATION}"

    async def create(self) -> None:
        """Create the table if it does not exist. All nodes give it one id, by which Cassandra knows it."""
        table_id = uuid.uuid5(uuid.NAMESPACE_DNS, self._table)
        await self._connection.define(
            f"create table if not exists {self._table} (model text, generation bigint, first int, key text,"
            ' build text static, declared text static, seal text static, "end" int, log text, position bigint,'
            " epoch bigint, updated bigint, save text, error text, since bigint,"
            f" waiting bigint, upto bigint, primary key ((model, generation), first, key)) with id = {table_id}"
        )

    async def identity(self, new: str | None) -> str:
        """The identity of this keyspace. If it has none, `new` is stored; "" without a new one."""
        # It is stored as the build of a model without name.
        name, generation = "", -1
        try:
            known = (await self.state(name, generation, serial=new is not None)).build
        except TableMissing:
            known = None
        if known is not None or new is None:
            return known or ""
        update = f"update {self._table} set build = ? where {_GENERATION} if build = null"
        bound = await self._connection.bind(update, new, name, generation)
        if await self._decide(name, generation, bound, lambda state: state.build == new):
            return new
        return await self.identity(None)

    async def state(self, name: str, generation: int, *, serial: bool = False) -> GenerationState:
        """All about a generation. `serial` first completes statements that are half-way through."""
        return _state(await self._connection.rows(self._select, name, generation, serial=serial))

    async def all(self) -> list[Checkpoint]:
        """The checkpoint of every partition of every generation."""
        models: dict[tuple[str, int], list[CassandraRow]] = {}
        async for page in self._connection.pages(f"select model, generation, {_COLUMNS} from {self._table}"):
            for model, generation, *row in page:
                models.setdefault((model, generation), []).append(tuple(row))
        checkpoints: list[Checkpoint] = []
        for (name, generation), rows in sorted(models.items()):
            state = _state(rows)
            for at in state.partitions:
                parked = tuple(key for key in state.parked if at.partition.holds(key.key))
                progress = Progress(at.position, at.log, at.updated, parked)
                checkpoints.append(Checkpoint(name, generation, progress, at.partition, at.epoch))
        return checkpoints

    # Saves

    async def check(self, change: Change, build: str) -> None:
        """Conflict, or Unavailable, if a change comes too late to be saved."""
        name, generation, partition = change.model.name, change.model.generation, change.partition
        select = f"select {_COLUMNS} from {self._table} where {_PARTITION}"
        state = _state(await self._connection.rows(select, name, generation, partition.first))
        at = next((at for at in state.partitions if at.partition == partition), None)
        if at is None:
            raise refusals.no_partition(change)
        if state.build != build or state.seal is not None:
            raise Unavailable(
                f"Another process declares other filters and orders of read model '{name}', and has rebuilt its tables "
                "or is about to. Restart this process with the same modules."
            )
        if at.position != change.before or at.log not in ("", change.expected) or at.epoch > change.epoch:
            raise refusals.checkpoint_moved(change, at.position, at.log)

    async def advance(self, change: Change, build: str, save: str) -> None:
        """Move the checkpoint, and write the parked keys with it. Conflict if another follower came first."""
        parked = list(change.parked.items())
        *earlier, last = [
            parked[n : n + _PARKED_PER_STATEMENT] for n in range(0, len(parked), _PARKED_PER_STATEMENT)
        ] or [[]]
        for n, part in enumerate(earlier):
            # More keys than one statement takes: the earlier statements do not move the checkpoint.
            await self._step(change, build, {"save": f"{save}/{n}"}, part)
        columns = {"position": change.position, "log": change.log, "epoch": change.epoch, "updated": change.now}
        await self._step(change, build, {**columns, "save": save}, last)

    async def _step(
        self, change: Change, build: str, columns: dict[str, Any], parked: Sequence[tuple[str, Parked | None]]
    ) -> None:
        model, partition = change.model, change.partition
        assignments = ", ".join(f"{column} = ?" for column in columns)
        update = f"update {self._table} set {assignments} where {_PARTITION} {_UNCHANGED}"
        where = (model.name, model.generation, partition.first)
        unchanged = (build, partition.end, change.before, change.epoch, change.expected)
        statements = [await self._connection.bind(update, *columns.values(), *where, *unchanged)]
        statements += [await self._park(model, key, entry) for key, entry in parked]
        save = columns["save"]
        if not await self._decide(
            model.name, model.generation, batch(statements), lambda state: _has_saved(state, [partition], save)
        ):
            await self.check(change, build)
            raise Conflict(f"Another process changed read model '{model.name}' at {change.before}.")

    async def _park(self, model: ReadModel, key: str, parked: Parked | None) -> Statement:
        where = (model.name, model.generation, _PARKED, key)
        if parked is None:
            delete = f"delete from {self._table} where {_GENERATION} and first = ? and key = ?"
            return await self._connection.bind(delete, *where)
        insert = (
            f"insert into {self._table} (model, generation, first, key, position, error, since, waiting, upto)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        values = (parked.position, parked.error, parked.since, parked.waiting, parked.upto)
        return await self._connection.bind(insert, *where, *values)

    # Partitions

    async def repartition(
        self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition], save: str
    ) -> None:
        """See `ReadStoreMaintenance.repartition`."""

        async def attempt() -> None:
            state = await self.state(model.name, model.generation, serial=True)
            known = {at.partition: at for at in state.partitions}
            replaced = [known[partition] for partition in old if partition in known]
            positions = {(at.position, at.log) for at in replaced}
            if len(replaced) < len(old) or len(positions) != 1 or not same_slots(old, new):
                raise refusals.partitions_changed(model)
            statement = batch(await self._replace(model, replaced, new, save))
            if not await self._decide(
                model.name, model.generation, statement, lambda state: _has_saved(state, new, save)
            ):
                raise _Overtaken(f"Read model '{model.name}' is saved all the time. Try again.")

        await self._connection.retry(attempt, lambda error: isinstance(error, _Overtaken))

    async def _replace(
        self, model: ReadModel, old: Sequence[PartitionCheckpoint], new: Sequence[Partition], save: str
    ) -> list[Statement]:
        bind = self._connection.bind
        where = (model.name, model.generation)
        remaining = {at.partition.first: (at.partition.end, at.save) for at in old}
        unchanged = 'if "end" = ? and save = ?'
        values = (old[0].log, old[0].position, max(at.epoch for at in old), old[0].updated, save)
        statements: list[Statement] = []
        for partition in new:
            known = remaining.pop(partition.first, None)
            if known is None:
                statements.append(await bind(self._insert, *where, partition.first, partition.end, *values))
            else:
                # Not deleted and inserted: in one statement, the deletion would win.
                update = (
                    f'update {self._table} set "end" = ?, log = ?, position = ?, epoch = ?, updated = ?, save = ?'
                    f" where {_PARTITION} {unchanged}"
                )
                statements.append(await bind(update, partition.end, *values, *where, partition.first, *known))
        for first, known in remaining.items():
            delete = f"delete from {self._table} where {_PARTITION} {unchanged}"
            statements.append(await bind(delete, *where, first, *known))
        return statements

    @property
    def _insert(self) -> str:
        return (
            f'insert into {self._table} (model, generation, first, key, "end", log, position, epoch, updated, save)'
            " values (?, ?, ?, '', ?, ?, ?, ?, ?, ?)"
        )

    # Builds

    async def begin(self, model: ReadModel, build: str, declared: str, partitions: Iterable[Partition]) -> bool:
        """Make a build the first one of a generation, with these partitions. False if the generation has one."""
        where = (model.name, model.generation)
        update = f"update {self._table} set build = ?, declared = ?, seal = null where {_GENERATION} if build = null"
        statements = [await self._connection.bind(update, build, declared, *where)]
        for partition in partitions:
            values = (partition.first, partition.end, "", 0, 0, 0, "")
            statements.append(await self._connection.bind(self._insert, *where, *values))
        return await self._decide(*where, batch(statements), lambda state: state.build == build)

    async def seal(self, model: ReadModel, build: str, seal: str) -> bool:
        """Refuse saves into a build, because its tables are rebuilt. False if another process came first."""
        where = (model.name, model.generation)
        update = f"update {self._table} set seal = ? where {_GENERATION} if build = ? and seal = null"
        bound = await self._connection.bind(update, seal, *where, build)
        return await self._decide(*where, bound, lambda state: state.build == build and state.seal == seal)

    async def unseal(self, model: ReadModel, old: GenerationState, new: str, declared: str) -> bool:
        """Replace a sealed build by `new`, or by itself. False if another process came first."""
        where = (model.name, model.generation)
        update = (
            f"update {self._table} set build = ?, declared = ?, seal = null where {_GENERATION}"
            " if build = ? and seal = ?"
        )
        bound = await self._connection.bind(update, new, declared, *where, old.build, old.seal)
        return await self._decide(*where, bound, lambda state: state.build == new and state.seal is None)

    async def erase(self, name: str, generation: int) -> None:
        """Delete everything about a generation."""
        where = (name, generation)
        while (build := (await self.state(*where, serial=True)).build) is not None:
            delete = f"delete build, declared, seal from {self._table} where {_GENERATION} if build = ?"
            statements = [
                await self._connection.bind(delete, *where, build),
                await self._connection.bind(f"delete from {self._table} where {_GENERATION} and first >= -1", *where),
            ]
            await self._decide(*where, batch(statements), lambda state: state.build is None)

    async def _decide(
        self, name: str, generation: int, statement: Statement, is_done: Callable[[GenerationState], bool]
    ) -> bool:
        """Whether a conditional statement was carried out. If its response is lost, `is_done` tells."""
        lost = False

        async def attempt() -> bool:
            nonlocal lost
            try:
                applied = await self._connection.decide(statement)
            except OutcomeUnknown:
                lost = True
                # A serial read completes a statement that is half-way through, one way or the other.
                if not is_done(await self.state(name, generation, serial=True)):
                    raise
                return True
            return applied or (lost and is_done(await self.state(name, generation, serial=True)))

        return await self._connection.retry(attempt, lambda error: isinstance(error, OutcomeUnknown))


class _Overtaken(Unavailable):
    """A save came between reading the partitions and replacing them."""


def _has_saved(state: GenerationState, partitions: Iterable[Partition], save: str) -> bool:
    return {*partitions} <= {at.partition for at in state.partitions if at.save == save}


def _state(rows: Iterable[CassandraRow]) -> GenerationState:
    build: str | None = None
    declared, seal = "", None
    partitions: list[PartitionCheckpoint] = []
    parked: list[Parked] = []
    for row in rows:
        build, declared, seal, first, key, end, log, position, epoch, updated, save, *rest = row
        if first == _PARKED:
            error, since, waiting, upto = rest
            parked.append(Parked(key, position, error, since, waiting, upto))
        elif first is not None:
            partitions.append(PartitionCheckpoint(Partition(first, end), log, position, epoch, updated, save))
    return GenerationState(build, declared or "", seal, tuple(partitions), tuple(parked))
