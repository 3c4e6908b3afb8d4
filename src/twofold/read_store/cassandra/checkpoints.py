"""In charge of how far each read model has come, and of which build of its tables counts.

All of it is one table, and all of one generation is one partition of it: checkpoints, parked keys, and in static
columns the build. It is changed by conditional statements only, whose clock is Cassandra's own; so a save, or a change
of the partitions, is all or nothing, and of two that contradict each other one is refused.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from twofold.errors import Conflict, Unavailable
from twofold.read_store.cassandra.driver import Doubtful, Driver, Missing, Row, Statement, batch
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel

_PARKED = -1
"""The slot under which parked keys are kept: partitions come and go, they stay."""
_AT_ONCE = 200
"""Parked keys in one conditional statement."""

_COLUMNS = 'build, declared, seal, first, key, "end", log, position, epoch, updated, save, error, since, waiting, upto'
_MINE = "model = ? and generation = ?"
_HERE = f"{_MINE} and first = ? and key = ''"
_UNCHANGED = "if build = ? and seal = null and \"end\" = ? and position = ? and epoch <= ? and log in (?, '')"


class At(msgspec.Struct, frozen=True):
    """Where a partition stands. `save` names the save that put it there."""

    partition: Partition
    log: str
    position: int
    epoch: int
    updated: int
    save: str


class Standing(msgspec.Struct, frozen=True):
    """All about one generation. `seal` says that its tables are being built anew, by somebody of that name."""

    build: str | None = None
    declared: str = ""
    seal: str | None = None
    at: tuple[At, ...] = ()
    parked: tuple[Parked, ...] = ()

    def progress(self) -> Progress:
        """How far it has come."""
        if not self.at:
            return Progress(0, "", 0)
        lowest = min(self.at, key=lambda at: at.position)
        return Progress(lowest.position, lowest.log, max(at.updated for at in self.at), self.parked)


class Checkpoints:
    """The table of checkpoints in one keyspace."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._table = f"{driver.address.keyspace}.checkpoints"
        self._select = f"select {_COLUMNS} from {self._table} where {_MINE}"

    async def make(self) -> None:
        """Make the table if it is not there. Several nodes may: they agree on its id, by which Cassandra knows it."""
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, self._table)
        await self._driver.define(
            f"create table if not exists {self._table} (model text, generation bigint, first int, key text,"
            ' build text static, declared text static, seal text static, "end" int, log text, position bigint,'
            " epoch bigint, updated bigint, save text, error text, since bigint,"
            f" waiting bigint, upto bigint, primary key ((model, generation), first, key)) with id = {identity}"
        )

    async def identity(self, new: str | None) -> str:
        """The random text that tells this keyspace from others; `new` if it has none. "" where nothing was made yet."""
        nobody, nothing = "", -1
        try:
            known = (await self.of(nobody, nothing, decided=new is not None)).build
        except Missing:
            known = None
        if known is not None or new is None:
            return known or ""
        update = f"update {self._table} set build = ? where {_MINE} if build = null"
        bound = await self._bound(update, (new, nobody, nothing))
        if await self._decided(nobody, nothing, bound, lambda now: now.build == new):
            return new
        return await self.identity(None)

    async def of(self, name: str, generation: int, *, decided: bool = False) -> Standing:
        """All about a generation. `decided` settles first what is half-way through."""
        return _standing(await self._driver.rows(self._select, name, generation, serial=decided))

    async def all(self) -> list[Checkpoint]:
        """Every partition of every generation."""
        models: dict[tuple[str, int], list[Row]] = {}
        async for page in self._driver.pages(f"select model, generation, {_COLUMNS} from {self._table}"):
            for model, generation, *row in page:
                models.setdefault((model, generation), []).append(tuple(row))
        found: list[Checkpoint] = []
        for (name, generation), rows in sorted(models.items()):
            standing = _standing(rows)
            for at in standing.at:
                parked = tuple(each for each in standing.parked if at.partition.holds(each.key))
                progress = Progress(at.position, at.log, at.updated, parked)
                found.append(Checkpoint(name, generation, progress, at.partition, at.epoch))
        return found

    # Saving

    async def expect(self, change: Change, build: str) -> None:
        """Conflict, or Unavailable, where a change comes too late to be saved."""
        name, generation, partition = change.model.name, change.model.generation, change.partition
        select = f"select {_COLUMNS} from {self._table} where {_HERE}"
        now = _standing(await self._driver.rows(select, name, generation, partition.first))
        at = next((at for at in now.at if at.partition == partition), None)
        if at is None:
            raise Conflict(f"Read model '{name}' has no partition {partition.name} any more.")
        if now.build != build or now.seal is not None:
            raise other_build(change.model)
        if at.position != change.before or at.log not in ("", change.expected) or at.epoch > change.epoch:
            raise Conflict(
                f"Read model '{name}' is at {at.position} of log '{at.log}', not at {change.before} of log "
                f"'{change.expected}', or a later epoch than {change.epoch} keeps it."
            )

    async def advance(self, change: Change, build: str, save: str) -> None:
        """Move the checkpoint, and with it the parked keys. Conflict if another follower came first."""
        parked = list(change.parked.items())
        *earlier, last = [parked[n : n + _AT_ONCE] for n in range(0, len(parked), _AT_ONCE)] or [[]]
        for n, each in enumerate(earlier):
            # More than one statement takes: these leave the checkpoint where it is.
            await self._step(change, build, "save = ?", (f"{save}/{n}",), each)
        columns = "position = ?, log = ?, epoch = ?, updated = ?, save = ?"
        await self._step(change, build, columns, (change.position, change.log, change.epoch, change.now, save), last)

    async def _step(
        self, change: Change, build: str, columns: str, to: tuple[Any, ...], parked: Sequence[tuple[str, Parked | None]]
    ) -> None:
        model, share = change.model, change.partition
        here = (model.name, model.generation, share.first)
        unchanged = (build, share.end, change.before, change.epoch, change.expected)
        update = f"update {self._table} set {columns} where {_HERE} {_UNCHANGED}"
        statements = [await self._bound(update, (*to, *here, *unchanged))]
        statements += [await self._park(model, key, each) for key, each in parked]
        save = to[-1]
        if not await self._decide(model, batch(statements), lambda now: _saved(now, [share], save)):
            await self.expect(change, build)
            raise Conflict(f"Read model '{model.name}' was changed by somebody else at {change.before}.")

    async def _park(self, model: ReadModel, key: str, parked: Parked | None) -> Statement:
        mine = (model.name, model.generation, _PARKED, key)
        if parked is None:
            return await self._bound(f"delete from {self._table} where {_MINE} and first = ? and key = ?", mine)
        return await self._bound(
            f"insert into {self._table} (model, generation, first, key, position, error, since, waiting, upto)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*mine, parked.position, parked.error, parked.since, parked.waiting, parked.upto),
        )

    # Partitions

    async def repartition(
        self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition], save: str
    ) -> None:
        """Put partitions in the place of others. Conflict where the others are not all there, at one position."""
        over, pause = self._driver.deadline(), 0.0
        while True:
            standing = await self.of(model.name, model.generation, decided=True)
            there = {at.partition: at for at in standing.at}
            if len({(there[each].position, there[each].log) if each in there else None for each in old}) != 1 or not (
                same_slots(old, new) and old[0] in there
            ):
                raise Conflict(
                    f"The partitions of read model '{model.name}' have changed, or stand at several positions."
                )
            statement = batch(await self._exchange(model, [there[each] for each in old], new, save))
            if await self._decide(model, statement, lambda now: _saved(now, new, save)):
                return
            if over():
                raise Unavailable(f"Read model '{model.name}' is saved all the time. Try again.")
            pause = await self._driver.pause(pause)

    async def _exchange(
        self, model: ReadModel, old: Sequence[At], new: Sequence[Partition], save: str
    ) -> list[Statement]:
        mine = (model.name, model.generation)
        unchanged = {at.partition.first: (at.partition.end, at.save) for at in old}
        as_read = 'if "end" = ? and save = ?'
        values = (old[0].log, old[0].position, max(at.epoch for at in old), old[0].updated, save)
        statements: list[Statement] = []
        for each in new:
            there = unchanged.pop(each.first, None)
            if there is None:
                statements.append(await self._bound(self._insert, (*mine, each.first, each.end, *values)))
            else:
                # Not deleted and inserted: in one statement, the deletion would win.
                statements.append(
                    await self._bound(
                        f'update {self._table} set "end" = ?, log = ?, position = ?, epoch = ?, updated = ?, save = ?'
                        f" where {_HERE} {as_read}",
                        (each.end, *values, *mine, each.first, *there),
                    )
                )
        for first, there in unchanged.items():
            delete = f"delete from {self._table} where {_HERE} {as_read}"
            statements.append(await self._bound(delete, (*mine, first, *there)))
        return statements

    @property
    def _insert(self) -> str:
        return (
            f'insert into {self._table} (model, generation, first, key, "end", log, position, epoch, updated, save)'
            " values (?, ?, ?, '', ?, ?, ?, ?, ?, ?)"
        )

    # Builds

    async def begin(self, model: ReadModel, build: str, declared: str, partitions: Iterable[Partition]) -> bool:
        """Let a build be the first of a generation, with these partitions. False where there is one already."""
        mine = (model.name, model.generation)
        update = f"update {self._table} set build = ?, declared = ?, seal = null where {_MINE} if build = null"
        statements = [await self._bound(update, (build, declared, *mine))]
        for each in partitions:
            values = (*mine, each.first, each.end, "", 0, 0, 0, "")
            statements.append(await self._bound(self._insert, values))
        return await self._decide(model, batch(statements), lambda now: now.build == build)

    async def seal(self, model: ReadModel, build: str, seal: str) -> bool:
        """Let nobody save into a build any more, because it is being built anew."""
        update = f"update {self._table} set seal = ? where {_MINE} if build = ? and seal = null"
        bound = await self._bound(update, (seal, model.name, model.generation, build))
        return await self._decide(model, bound, lambda now: now.build == build and now.seal == seal)

    async def unseal(self, model: ReadModel, build: str, seal: str, new: str, declared: str) -> bool:
        """Let `new` take the place of a sealed build, or be that build again. False where somebody came first."""
        bound = await self._bound(
            f"update {self._table} set build = ?, declared = ?, seal = null where {_MINE} if build = ? and seal = ?",
            (new, declared, model.name, model.generation, build, seal),
        )
        return await self._decide(model, bound, lambda now: now.build == new and now.seal is None)

    async def erase(self, name: str, generation: int) -> None:
        """Forget a generation."""
        while (build := (await self.of(name, generation, decided=True)).build) is not None:
            delete = f"delete build, declared, seal from {self._table} where {_MINE} if build = ?"
            statements = [
                await self._bound(delete, (name, generation, build)),
                await self._bound(f"delete from {self._table} where {_MINE} and first >= -1", (name, generation)),
            ]
            await self._decided(name, generation, batch(statements), lambda now: now.build is None)

    # Deciding

    async def _bound(self, cql: str, parameters: Sequence[Any]) -> Statement:
        return (await self._driver.prepare(cql)).bind(parameters)

    async def _decide(self, model: ReadModel, statement: Statement, done: Callable[[Standing], bool]) -> bool:
        return await self._decided(model.name, model.generation, statement, done)

    async def _decided(
        self, name: str, generation: int, statement: Statement, done: Callable[[Standing], bool]
    ) -> bool:
        """Whether a conditional statement was carried out. Where the answer was lost, what it wrote tells."""
        over, pause, doubtful = self._driver.deadline(), 0.0, False
        while True:
            applied: bool | None
            try:
                applied = await self._driver.decide(statement)
            except Doubtful as error:
                if over():
                    raise Unavailable(
                        f"Cassandra at {self._driver.address.shown} did not say whether it was done: {error.__cause__}"
                    ) from error
                applied, doubtful = None, True
            if applied or (applied is False and not doubtful):
                return applied
            # To read what is decided ends what is half-way through, one way or the other.
            if done(await self.of(name, generation, decided=True)):
                return True
            if applied is False:
                return False
            pause = await self._driver.pause(pause)


def other_build(model: ReadModel) -> Unavailable:
    """What to tell whose tables are not those that count."""
    return Unavailable(
        f"The filters and orders of read model '{model.name}' were declared otherwise by another process, which has "
        "built its tables anew, or is about to. Restart this one with the same modules."
    )


def _saved(now: Standing, partitions: Iterable[Partition], save: str) -> bool:
    return {*partitions} <= {at.partition for at in now.at if at.save == save}


def _standing(rows: Iterable[Row]) -> Standing:
    build: str | None = None
    declared, seal = "", None
    at: list[At] = []
    parked: list[Parked] = []
    for row in rows:
        build, declared, seal, first, key, end, log, position, epoch, updated, save, *waiting = row
        if first == _PARKED:
            error, since, behind, upto = waiting
            parked.append(Parked(key, position, error, since, behind, upto))
        elif first is not None:
            at.append(At(Partition(first, end), log, position, epoch, updated, save))
    return Standing(build, declared or "", seal, tuple(at), tuple(parked))
