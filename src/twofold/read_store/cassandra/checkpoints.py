"""Checkpoints, parked keys, and which build of a read model's tables is in use.

All of it is in one table, in one partition for each generation: checkpoints, parked keys and, in static columns, the
build. Only conditional statements change it, with Cassandra's own clock; so a save, or a change of the partitions, is
all or nothing, and of two that contradict each other one is refused.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from twofold.errors import Conflict, Unavailable
from twofold.read_store.cassandra.connection import CassandraConnection, CassandraRow, batch
from twofold.read_store.cassandra.errors import OutcomeUnknown, TableMissing
from twofold.read_store.parked_summary import stored_summary, summary_stored
from twofold.read_store.partition import Partition
from twofold.read_store.partition_state import (
    PartitionState,
    check_expected,
    checkpoints_of,
    progress_of,
    repartitioned,
)
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel

_PARKED = -1
"""In the column `first`, marks parked keys: they stay where they are when partitions change."""
_PARKED_PER_STATEMENT = 200

_COLUMNS = (
    'build, declared, seal, first, key, "end", log, position, epoch, updated, save, parked, error, since, waiting, upto'
)
_GENERATION = "model = ? and generation = ?"
_PARTITION = f"{_GENERATION} and first = ? and key = ''"
_UNCHANGED = "if build = ? and seal = null and \"end\" = ? and position = ? and epoch <= ? and log in (?, '')"


class PartitionCheckpoint(PartitionState, frozen=True):
    """The checkpoint of a partition. `save` is the id of the save that wrote it."""

    save: str = ""


class GenerationState(msgspec.Struct, frozen=True):
    """All about one generation. `seal` is set while its tables are rebuilt; it is the id of that rebuild."""

    build: str | None = None
    declared: str = ""
    seal: str | None = None
    partitions: Mapping[Partition, PartitionCheckpoint] = {}
    parked: Sequence[Parked] = ()


IsDone = Callable[[GenerationState], bool]

Statement = tuple[Any, ...]
"""CQL and its parameters."""


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
            " epoch bigint, updated bigint, save text, parked text, error text, since bigint,"
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
        if await self._decide(name, generation, lambda state: state.build == new, (update, new, name, generation)):
            return new
        return await self.identity(None)

    async def state(self, name: str, generation: int, *, serial: bool = False) -> GenerationState:
        """All about a generation. `serial` first completes statements that are half-way through."""
        return _state(await self._connection.rows(self._select, name, generation, serial=serial))

    async def progress(self, name: str, generation: int) -> Progress:
        """How far a generation has come. Parked keys are not read."""
        select = f"{self._select} and first > {_PARKED}"
        return progress_of(_state(await self._connection.rows(select, name, generation)).partitions)

    async def is_parked(self, name: str, generation: int, key: str) -> bool:
        select = f"select key from {self._table} where {_GENERATION} and first = {_PARKED} and key = ?"
        return bool(await self._connection.rows(select, name, generation, key))

    async def all(self) -> list[Checkpoint]:
        models: dict[tuple[str, int], list[CassandraRow]] = {}
        async for page in self._connection.pages(f"select model, generation, {_COLUMNS} from {self._table}"):
            for model, generation, *row in page:
                models.setdefault((model, generation), []).append(tuple(row))
        states = {of: _state(rows) for of, rows in models.items()}
        return checkpoints_of((*of, state.partitions, state.parked) for of, state in states.items())

    # Saves

    async def check(self, change: Change, build: str) -> None:
        """Conflict, or Unavailable, if a change comes too late to be saved."""
        name, generation, partition = change.model.name, change.model.generation, change.partition
        select = f"select {_COLUMNS} from {self._table} where {_PARTITION}"
        state = _state(await self._connection.rows(select, name, generation, partition.first))
        at = state.partitions.get(partition)
        if at and (state.build != build or state.seal is not None):
            raise Unavailable(
                f"Another process declares other filters and orders of read model '{name}', and has rebuilt its tables "
                "or is about to. Restart this process with the same modules."
            )
        check_expected(change, at)

    async def advance(self, change: Change, build: str, save: str) -> None:
        """Move the checkpoint, and write the parked keys with it. Conflict if another follower came first."""
        parked = list(change.parked.items())
        *earlier, last = [
            parked[n : n + _PARKED_PER_STATEMENT] for n in range(0, len(parked), _PARKED_PER_STATEMENT)
        ] or [[]]
        for n, part in enumerate(earlier):
            # More keys than one statement takes: the earlier statements do not move the checkpoint.
            await self._step(change, build, {"save": f"{save}/{n}"}, part)
        columns: dict[str, Any] = {
            "position": change.position,
            "log": change.stamp,
            "epoch": change.epoch,
            "updated": change.now,
        }
        if change.summary is not None:
            columns["parked"] = stored_summary(change.summary)
        await self._step(change, build, {**columns, "save": save}, last)

    async def _step(
        self, change: Change, build: str, columns: dict[str, Any], parked: Sequence[tuple[str, Parked | None]]
    ) -> None:
        model, partition = change.model, change.partition
        assignments = ", ".join(f"{column} = ?" for column in columns)
        update = f"update {self._table} set {assignments} where {_PARTITION} {_UNCHANGED}"
        where = (model.name, model.generation, partition.first)
        unchanged = (build, partition.end, change.before, change.epoch, change.expected)
        statements = [(update, *columns.values(), *where, *unchanged)]
        statements += [self._parking(model, key, entry) for key, entry in parked]
        if not await self._decide(
            model.name, model.generation, lambda state: _has_saved(state, [partition], columns["save"]), *statements
        ):
            await self.check(change, build)
            raise Conflict(f"Another process changed read model '{model.name}' at {change.before}.")

    def _parking(self, model: ReadModel, key: str, parked: Parked | None) -> Statement:
        where = (model.name, model.generation, _PARKED, key)
        if parked is None:
            return (f"delete from {self._table} where {_GENERATION} and first = ? and key = ?", *where)
        insert = (
            f"insert into {self._table} (model, generation, first, key, position, error, since, waiting, upto)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        return (insert, *where, *msgspec.structs.astuple(parked)[1:])

    # Partitions

    async def repartition(
        self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition], save: str
    ) -> None:
        async def attempt() -> None:
            state = await self.state(model.name, model.generation, serial=True)
            parked = [parked.key for parked in state.parked]
            states = {
                partition: msgspec.structs.replace(state, save=save)
                for partition, state in repartitioned(model, state.partitions, old, new, parked).items()
            }
            replaced = {partition.first: (partition.end, state.partitions[partition].save) for partition in old}
            statements = self._replacing(model, replaced, states)
            if not await self._decide(
                model.name, model.generation, lambda state: _has_saved(state, new, save), *statements
            ):
                raise _Overtaken(f"Read model '{model.name}' is saved all the time. Try again.")

        await self._connection.retry(attempt, lambda error: isinstance(error, _Overtaken))

    def _replacing(
        self,
        model: ReadModel,
        old: dict[int, tuple[int, str]],
        new: Mapping[Partition, PartitionCheckpoint],
    ) -> Iterator[Statement]:
        """The statements that write `new` partitions. Of the old ones, by `first`, their `end` and `save`."""
        where = (model.name, model.generation)
        unchanged = 'if "end" = ? and save = ?'
        for partition, state in new.items():
            values = (
                *(state.stamp, state.position, state.epoch, state.updated, state.save),
                stored_summary(state.parked),
            )
            known = old.pop(partition.first, None)
            if known is None:
                yield (self._insert, *where, partition.first, partition.end, *values)
            else:
                # Not deleted and inserted: in one statement, the deletion would win.
                update = (
                    f'update {self._table} set "end" = ?, log = ?, position = ?, epoch = ?, updated = ?, save = ?,'
                    " parked = ?"
                    f" where {_PARTITION} {unchanged}"
                )
                yield (update, partition.end, *values, *where, partition.first, *known)
        for first, known in old.items():
            yield (f"delete from {self._table} where {_PARTITION} {unchanged}", *where, first, *known)

    @property
    def _insert(self) -> str:
        return (
            f'insert into {self._table} (model, generation, first, key, "end", log, position, epoch, updated, save,'
            " parked) values (?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?)"
        )

    # Builds

    async def begin(self, model: ReadModel, build: str, declared: str, partitions: Iterable[Partition]) -> bool:
        """Make a build the first one of a generation, with these partitions. False if the generation has one."""
        where = (model.name, model.generation)
        update = f"update {self._table} set build = ?, declared = ?, seal = null where {_GENERATION} if build = null"
        values = ("", 0, 0, 0, "", "")
        inserts = [(self._insert, *where, partition.first, partition.end, *values) for partition in partitions]
        return await self._decide(
            *where, lambda state: state.build == build, (update, build, declared, *where), *inserts
        )

    async def seal(self, model: ReadModel, build: str, seal: str) -> bool:
        """Refuse saves into a build, because its tables are rebuilt. False if another process came first."""
        where = (model.name, model.generation)
        update = f"update {self._table} set seal = ? where {_GENERATION} if build = ? and seal = null"
        step = (update, seal, *where, build)
        return await self._decide(*where, lambda state: state.build == build and state.seal == seal, step)

    async def unseal(self, model: ReadModel, old: GenerationState, new: str, declared: str) -> bool:
        """Replace a sealed build by `new`, or by itself. False if another process came first."""
        where = (model.name, model.generation)
        update = (
            f"update {self._table} set build = ?, declared = ?, seal = null where {_GENERATION}"
            " if build = ? and seal = ?"
        )
        step = (update, new, declared, *where, old.build, old.seal)
        return await self._decide(*where, lambda state: state.build == new and state.seal is None, step)

    async def erase(self, name: str, generation: int) -> None:
        where = (name, generation)
        while (build := (await self.state(*where, serial=True)).build) is not None:
            no_build = f"delete build, declared, seal from {self._table} where {_GENERATION} if build = ?"
            no_rows = f"delete from {self._table} where {_GENERATION} and first >= -1"
            await self._decide(*where, lambda state: state.build is None, (no_build, *where, build), (no_rows, *where))

    async def _decide(self, name: str, generation: int, is_done: IsDone, *statements: Statement) -> bool:
        """Whether conditional statements were carried out, together. If the response is lost, `is_done` tells."""
        bound = [await self._connection.bind(*statement) for statement in statements]
        together = bound[0] if len(bound) == 1 else batch(bound)
        lost = False

        async def attempt() -> bool:
            nonlocal lost
            try:
                applied = await self._connection.decide(together)
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
    return {*partitions} <= {partition for partition, at in state.partitions.items() if at.save == save}


def _state(rows: Iterable[CassandraRow]) -> GenerationState:
    build: str | None = None
    declared, seal = "", None
    partitions: dict[Partition, PartitionCheckpoint] = {}
    parked: list[Parked] = []
    for row in rows:
        build, declared, seal, first, key, end, log, position, epoch, updated, save, summary, *rest = row
        if first == _PARKED:
            error, since, waiting, upto = rest
            parked.append(Parked(key, position, error, since, waiting, upto))
        elif first is not None:
            partitions[Partition(first, end)] = PartitionCheckpoint(
                position, log, updated, epoch, summary_stored(summary), save
            )
    return GenerationState(build, declared or "", seal, partitions, parked)
