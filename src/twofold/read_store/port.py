"""In charge of what every read store promises. The contract that proves it is `twofold.testing.ReadStoreContract`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.read_store.partition import WHOLE, Partition


class ReadModel(msgspec.Struct, frozen=True):
    """What a store must keep for one projection: typed rows by key, found and ordered by declared fields.

    `generation` tells builds of one projection apart: each has rows, checkpoints and parked keys of its own. A find
    may filter by exactly the fields of one entry of `find_by` (or by none), ordered by key or a field of `order_by`.
    A generation that is new is shared out into `partitions`.
    """

    name: str
    generation: int
    row: type
    find_by: tuple[tuple[str, ...], ...] = ()
    order_by: tuple[str, ...] = ()
    partitions: int = 1


class VersionedRow(msgspec.Struct, frozen=True, gc=False):
    """A row with its version: the position of the last event folded into it, and how often it was repaired.

    `row` None says that it was deleted there. Of two versions of a row the one with the larger (repair, position) is
    the newer; an older one never takes its place. `passed` are the rows the key had on the way, from the one it was
    folded from: a store that keeps a row in several places has to take all of them away.
    """

    row: Any | None
    position: Position
    repair: int = 0
    passed: tuple[Any, ...] = ()


class RawRow(msgspec.Struct, frozen=True):
    """What is stored of a row, for whoever looks for damage: as plain JSON data, with its version.

    `damage` says what is wrong with it, in sentences: it can not be read as what it should be, or its copies (columns,
    entries that finds read) say otherwise. `row` None: it was deleted there, or nothing can be read of it.
    """

    row: Any | None
    position: Position
    repair: int = 0
    damage: str = ""


class Parked(msgspec.Struct, frozen=True):
    """A key whose event at `position` could not be folded. Its row stays as it was before that event.

    `since` is microseconds since 1970 in UTC; `waiting` counts the later events of the key that wait behind it, the
    last of them at `upto`.
    """

    key: str
    position: Position
    error: str
    since: int
    waiting: int = 0
    upto: Position = 0


class Progress(msgspec.Struct, frozen=True):
    """How far a read model has come: its checkpoint (the lowest of its partitions), and the keys that are set aside.

    `updated` is when the partition that was saved last was, in microseconds since 1970 in UTC.
    """

    position: Position
    log: str
    updated: int
    parked: tuple[Parked, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one partition of one generation of a read model has come, and under which lease it was saved last."""

    name: str
    generation: int
    progress: Progress
    partition: Partition = WHOLE
    epoch: int = 0


class Change(msgspec.Struct, frozen=True):
    """Rows, parked keys and checkpoint to be saved together. `rows` maps keys to rows with their versions.

    `log` names the history of the log, `was` the one the checkpoint still names (None: the same; "" matches only a
    checkpoint that was never saved). `before` is the checkpoint the change was made on, `epoch` the lease it was made
    under: the store refuses (Conflict) if checkpoint or history is not the present one, or a later epoch has saved.
    `parked` replaces what was known of those keys, None takes a key out of the car park. `now` is in microseconds.
    """

    model: ReadModel
    log: str
    before: Position
    position: Position
    now: int
    rows: Mapping[str, VersionedRow] = {}
    parked: Mapping[str, Parked | None] = {}
    was: str | None = None
    partition: Partition = WHOLE
    epoch: int = 0

    @property
    def expected(self) -> str:
        """The history the present checkpoint has to name, if it names one."""
        return self.log if self.was is None else self.was


class FindPage(msgspec.Struct, frozen=True):
    """Rows of one find, in order, with their keys. `cursor` continues after the last one; None where that was all."""

    rows: list[tuple[str, Any]]
    cursor: str | None


class Native(msgspec.Struct, frozen=True):
    """A store's own client, for reading what the port has no word for. Writing through it breaks what we promise.

    `table` is the name of the model's table or collection as the client takes it, `session` what its calls need to
    read in this snapshot, where it needs anything.
    """

    client: Any
    table: str
    session: Any = None


class Snapshot(Protocol):
    """A view of all rows and checkpoints, for as long as one query takes.

    In a transactional store it is one moment. In others rows may be newer than `progress` says, never older, provided
    that `progress` is asked first.
    """

    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The row of a key, or None."""
        ...

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
        """At most `limit` rows whose fields equal `filters`, ordered by a field (ties by key) or by key.

        None sorts first. UndeclaredAccess, naming the cure, where the model declares no such filter or order;
        InvalidMessage where the cursor is not one of this find's.
        """
        ...

    async def progress(self, model: ReadModel) -> Progress:
        """Checkpoint and parked keys of a model, as of this snapshot."""
        ...

    def native(self, model: ReadModel) -> Native:
        """The store's own client, and where the rows of a model are."""
        ...


class CorruptRow(Unavailable):
    """A stored row cannot be read. `changed`: nor, most likely, can others, since it is of another row type."""

    def __init__(self, message: str, *, changed: bool) -> None:
        super().__init__(message)
        self.changed = changed


class ReadStore(Protocol):
    """Rows to answer from, each read model exactly as far as its checkpoint says.

    All methods raise Unavailable where the store cannot be reached.
    """

    identity: str
    """A random text of its own, made with the store and kept in it: who has the same, has the same read models."""

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        """Make room for these models: tables and indexes, where they are not there yet. Safe to repeat."""
        ...

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        """The rows of many keys in one read, as of the last save; absent keys are absent.

        A store without transactions also tells of deleted rows (`row` None), as long as their events may come again.
        """
        ...

    async def save(self, change: Change) -> None:
        """Write rows, parked keys and checkpoint. Conflict if another follower came first.

        All in one transaction, or in an order in which to save the same events again is harmless: rows that are older
        than those kept are passed over, and the checkpoint comes last.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view for reading; give it back soon."""
        ...

    async def checkpoints(self) -> list[Checkpoint]:
        """How far each partition of every read model kept here has come, by name, generation and partition.

        Prepared in this process or not. Each tells the parked keys of its own partition.
        """
        ...

    async def close(self) -> None:
        """Give back files and connections."""
        ...


class Upkeep(Protocol):
    """What is done to whole read models, beside the followers that keep them."""

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        """Put `new` partitions in the place of `old` ones, which hold the same keys, in one step.

        Conflict, and nothing changed, where `old` are not all there, or do not all stand at one position.
        """
        ...

    async def stored(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        """Rows by key behind `after`, as plain JSON values whatever type they have; deleted ones left out.

        Nothing where there is no such read model. Works for models not prepared in this process; for those that are,
        rows are held against their type as well. No row is left out, and none raises, because of what is wrong with it.
        """
        ...

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        """What is stored of these keys, held against the model's row type; absent keys are absent.

        Deleted rows are told of (`row` None) as far as the store keeps them. Works for models not prepared in this
        process. It never fails because of what a row holds.
        """
        ...

    async def drop(self, name: str, generation: int) -> None:
        """Take away all that is kept of one generation. Safe to repeat."""
        ...


class WholeReadStore(ReadStore, Upkeep, Protocol):
    """What every store of ours is."""
