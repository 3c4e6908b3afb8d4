"""The port of read stores: what each of them promises. `twofold.testing.ReadStoreContract` proves it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, Required, TypedDict, Unpack

import msgspec

from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.read_store.parked_summary import NOTHING_PARKED, ParkedSummary
from twofold.read_store.partition import WHOLE, Partition


class ReadModel(msgspec.Struct, frozen=True):
    """What a store keeps for one projection: typed rows by key, found and ordered by declared fields.

    `generation` tells builds of one projection apart: each has its own rows, checkpoints and parked keys. A find may
    filter by exactly the fields of one entry of `find_by` (or by none), ordered by key or by a field of `order_by`.
    A new generation starts with this many `partitions`.
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
    the newer; an older one never replaces it. `previous_rows` are the rows that the key had since the last save,
    starting with the saved one: a store that keeps a row in several places has to remove all of them.
    """

    row: Any | None
    position: Position
    repair: int = 0
    previous_rows: tuple[Any, ...] = ()


class RawRow(msgspec.Struct, frozen=True):
    """What is stored of a row, for audits: as plain JSON data, with its version.

    `corruption` says in sentences what is wrong with it: it does not fit its row type, or its copies (columns, index
    entries) say something else. `row` None: it was deleted there, or nothing of it can be read.
    """

    row: Any | None
    position: Position
    repair: int = 0
    corruption: str = ""


class Parked(msgspec.Struct, frozen=True):
    """A key whose event at `position` could not be folded. Its row stays as it was before that event.

    If nobody can tell which keys the event changes, `key` names the event instead, as `ParkedEvent.key` does. Any row
    may lack it then.

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
    """How far a read model has come: its checkpoint (the lowest of its partitions), and what is parked, in short.

    `stamp` names the history of the log that the position belongs to; "" if nothing was saved yet. `updated` is the
    time of the last save of any partition, in microseconds since 1970 in UTC.
    """

    position: Position
    stamp: str
    updated: int
    parked: ParkedSummary = NOTHING_PARKED


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one partition of one generation of a read model has come, and under which lease it was saved last.

    `parked` are all parked keys of the partition, by key.
    """

    name: str
    generation: int
    progress: Progress
    partition: Partition = WHOLE
    epoch: int = 0
    parked: tuple[Parked, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """Rows, parked keys and checkpoint to be saved together. `rows` maps keys to rows with their versions.

    `stamp` names the history of the log, `previous_stamp` the one the checkpoint still names (None: the same; ""
    matches only a checkpoint that was never saved). `before` is the checkpoint the change was made on, `epoch` the
    lease it was made under: the store refuses (Conflict) if checkpoint or history is not the present one, or a later
    epoch has saved. `parked` replaces the parked keys it names; None means that the key is no longer parked. `summary`
    is that of all parked keys of the partition after the change; None: the stored one stays. `now` is in microseconds.
    """

    model: ReadModel
    stamp: str
    before: Position
    position: Position
    now: int
    rows: Mapping[str, VersionedRow] = {}
    parked: Mapping[str, Parked | None] = {}
    previous_stamp: str | None = None
    partition: Partition = WHOLE
    epoch: int = 0
    summary: ParkedSummary | None = None

    @property
    def expected(self) -> str:
        """The history that the present checkpoint must name, if it names one."""
        return self.stamp if self.previous_stamp is None else self.previous_stamp


class FindOptions(TypedDict, total=False):
    """The part of a find that is requested: at most `limit` rows, by a field or by key, behind those of `cursor`."""

    order_by: str | None
    descending: bool
    limit: Required[int]
    cursor: str | None


class FindPage(msgspec.Struct, frozen=True):
    """Rows of one find, in order, with their keys. `cursor` continues after the last one; None if that was the last."""

    rows: list[tuple[str, Any]]
    cursor: str | None


class Lookup(msgspec.Struct, frozen=True, gc=False):
    """The row of a key, or None, and the progress of its model."""

    progress: Progress
    row: Any | None


class Native(msgspec.Struct, frozen=True):
    """A store's own client, for reads that the port does not offer. Writes through it break the store's promises.

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

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        """At most `limit` rows whose fields equal `filters`, ordered by a field (ties by key) or by key.

        None sorts first. UndeclaredAccess, with the fix, where the model declares no such filter or order;
        InvalidMessage where the cursor does not belong to this find.
        """
        ...

    async def progress(self, model: ReadModel) -> Progress:
        """Checkpoint of a model and the summary of its parked keys, as of this snapshot.

        It costs the same however many keys are parked.
        """
        ...

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        """Whether a key is parked, as of this snapshot."""
        ...

    def native(self, model: ReadModel) -> Native:
        """The store's own client, and where the rows of a model are."""
        ...


class CorruptRow(Unavailable):
    """A stored row cannot be read. `changed`: other rows probably cannot either, because the row type has changed."""

    def __init__(self, message: str, *, changed: bool) -> None:
        super().__init__(message)
        self.changed = changed


class ReadStoreRows(Protocol):
    """The rows of a read store, for followers and queries: each read model is as far as its checkpoint says.

    All methods raise Unavailable where the store cannot be reached.
    """

    identity: str
    """A random text, made with the store and stored in it. Processes with the same identity share read models."""

    save_events: int
    """How many events to fold into one save at most. A store that works on the event loop delays all else meanwhile."""

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        """The rows of many keys in one read, as of the last save; absent keys are absent.

        A store without transactions also returns deleted rows (`row` None) as long as their events may come again.
        """
        ...

    async def save(self, change: Change) -> None:
        """Write rows, parked keys and checkpoint. Conflict if another follower came first.

        All in one transaction, or in an order in which saving the same events again is harmless: rows older than the
        stored ones are ignored, and the checkpoint comes last.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view for reading. Close it soon."""
        ...

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        """What a query for one row by its key needs, in one request if the store allows it.

        As if read in a snapshot of its own: first `progress`, then `get`.
        """
        ...

    async def checkpoints(self) -> list[Checkpoint]:
        """How far each partition of every stored read model has come, by name, generation and partition.

        Whether prepared in this process or not. Each lists all parked keys of its own partition.
        """
        ...

    async def close(self) -> None:
        """Close files and connections."""
        ...


class ReadStoreMaintenance(Protocol):
    """Work on whole read models, beside the followers that write them: tables, partitions, audits, removal."""

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        """Create tables and indexes for these models where they are missing. Safe to repeat."""
        ...

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        """Replace `old` partitions by `new` ones, which hold the same keys, in one step.

        Conflict, with nothing changed, where one of `old` is missing, or they are not all at one position.
        """
        ...

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        """Rows by key behind `after`, as plain JSON values whatever type they have, without deleted ones.

        Empty where there is no such read model. Works for models not prepared in this process; rows of prepared ones
        are compared with their type as well. A corrupt row is never left out, and never raises.
        """
        ...

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        """What is stored of these keys, compared with the model's row type; absent keys are absent.

        Deleted rows are included (`row` None) as far as the store keeps them. Works for models not prepared in this
        process. It never fails because of what a row holds.
        """
        ...

    async def drop(self, name: str, generation: int) -> None:
        """Delete everything of one generation. Safe to repeat."""
        ...


class ReadStore(ReadStoreRows, ReadStoreMaintenance, Protocol):
    """Rows to answer from, and work on whole read models: what every read store offers."""
