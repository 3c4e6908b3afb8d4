"""In charge of what every read store promises. The contract that proves it is `twofold.testing.ReadStoreContract`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from twofold.domain.events import Position


class ReadModel(msgspec.Struct, frozen=True):
    """What a store must keep for one projection: typed rows by key, found and ordered by declared fields.

    `generation` tells versions of one projection apart: each has rows, checkpoint and parked keys of its own. A find
    may filter by exactly the fields of one entry of `find_by` (or by none), ordered by key or a field of `order_by`.
    """

    name: str
    generation: int
    row: type
    find_by: tuple[tuple[str, ...], ...] = ()
    order_by: tuple[str, ...] = ()


class Parked(msgspec.Struct, frozen=True):
    """A key whose event at `position` could not be folded. Its row stays as it was before that event.

    `since` is microseconds since 1970 in UTC; `waiting` counts the later events of the key that wait behind it.
    """

    key: str
    position: Position
    error: str
    since: int
    waiting: int = 0


class Progress(msgspec.Struct, frozen=True):
    """How far a read model has come: its checkpoint, and the keys that are set aside."""

    position: Position
    log: str
    updated: int
    parked: tuple[Parked, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one generation of a read model has come."""

    name: str
    generation: int
    progress: Progress


class Change(msgspec.Struct, frozen=True):
    """Rows, parked keys and checkpoint to be saved together. `rows` maps keys to rows, None deletes.

    `log` names the history of the log, `was` the one the checkpoint still names (None: the same; "" matches only a
    checkpoint that was never saved). `before` is the checkpoint the change was made on: the store refuses (Conflict) if
    either is not the present one.
    `parked` replaces what was known of those keys, None takes a key out of the car park. `now` is in microseconds.
    """

    model: ReadModel
    log: str
    before: Position
    position: Position
    now: int
    rows: Mapping[str, Any] = {}
    parked: Mapping[str, Parked | None] = {}
    was: str | None = None

    @property
    def expected(self) -> str:
        """The history the present checkpoint has to name, if it names one."""
        return self.log if self.was is None else self.was


class Found(msgspec.Struct, frozen=True):
    """Rows of one find, in order, with their keys. `cursor` continues after the last one; None where that was all."""

    rows: list[tuple[str, Any]]
    cursor: str | None


class Snapshot(Protocol):
    """One consistent view of all rows and checkpoints, for as long as one query takes."""

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
    ) -> Found:
        """At most `limit` rows whose fields equal `filters`, ordered by a field (ties by key) or by key.

        None sorts first. UndeclaredAccess, naming the cure, where the model declares no such filter or order;
        InvalidMessage where the cursor is not one of this find's.
        """
        ...

    async def progress(self, model: ReadModel) -> Progress:
        """Checkpoint and parked keys of a model, as of this snapshot."""
        ...


class ReadStore(Protocol):
    """Rows to answer from, each read model exactly as far as its checkpoint says.

    All methods raise Unavailable where the store cannot be reached.
    """

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        """Make room for these models: tables and indexes, where they are not there yet. Safe to repeat."""
        ...

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, Any]:
        """The rows of many keys in one read, as of the last save; absent keys are absent."""
        ...

    async def save(self, change: Change) -> None:
        """Write rows, parked keys and checkpoint in one transaction. Conflict if another follower came first."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A consistent view for reading; give it back soon."""
        ...

    async def checkpoints(self) -> list[Checkpoint]:
        """How far every read model kept here has come, by name and generation, prepared in this process or not."""
        ...

    async def close(self) -> None:
        """Give back files and connections."""
        ...
