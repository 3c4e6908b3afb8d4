"""Inline projections in the write store: their rows, and the state that all nodes share about them."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from twofold.codec import RowCodec
from twofold.codec.misfit_sentences import misfit_sentence
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import Unavailable
from twofold.write_store.port import LogRow, RowGuard, RowWrite, WriteStore

SPACE = "inline"
"""The space of the shared state. The rows of each version of a projection are in a space named after this one."""

COMPLETE = ""
"""A key in the space of a projection that exists as long as all rows are there. Keys of rows are never empty."""

_LIST = "projections"


class InlineBuildState(msgspec.Struct, frozen=True):
    """How far the rows of one version of a projection are.

    "building": folded up to `position`. "complete": kept up to date by every append. "dropping": being deleted.
    """

    state: Literal["building", "complete", "dropping"]
    position: Position = 0


class InlineState(NamedTuple):
    """The shared state at one moment: the version of each projection that all nodes have to keep, and what is built.

    `version` is the version of the list. Every append is guarded by it: a node that keeps another list cannot write
    events.
    """

    listed: dict[str, int]
    version: int
    built: dict[str, tuple[InlineBuildState, int]]

    @property
    def guard(self) -> RowGuard:
        """Holds as long as no node has replaced the list."""
        return RowGuard(SPACE, _LIST, self.version)

    def stage(self, label: str) -> str | None:
        """ "building", "complete" or "dropping"; None where there are no rows."""
        return self.built[label][0].state if label in self.built else None

    def list(self, projections: Mapping[str, int]) -> RowWrite:
        """The write that replaces the list."""
        return RowWrite(SPACE, _LIST, msgspec.json.encode(projections), self.version)

    def build(self, label: str, built: InlineBuildState | None) -> RowWrite:
        """The write that records how far rows are, or (None) that they are deleted."""
        _, version = self.built.get(label, (None, 0))
        return RowWrite(SPACE, label, None if built is None else msgspec.json.encode(built), version)

    def unchanged(self, label: str) -> RowGuard:
        """Holds as long as no node has recorded anything else about these rows."""
        return RowGuard(SPACE, label, self.built[label][1])


async def read_inline_state(write_store: WriteStore) -> InlineState:
    """The shared state now."""
    rows = dict(await write_store.rows(SPACE))
    listed = rows.pop(_LIST, None)
    built = {label: (msgspec.json.decode(row.value, type=InlineBuildState), row.version) for label, row in rows.items()}
    if listed is None:
        return InlineState({}, 0, built)
    return InlineState(msgspec.json.decode(listed.value, type=dict[str, int]), listed.version, built)


async def list_version(write_store: WriteStore) -> int:
    """The version of the list; 0 where there is none."""
    row = (await write_store.rows(SPACE, [_LIST])).get(_LIST)
    return 0 if row is None else row.version


def space_of(label: str) -> str:
    """The space of the rows of one version of a projection."""
    return f"{SPACE}:{label}"


class InlineFailure(Exception):
    """A projection failed on an event. `what` says where; the error of the fold is the cause."""

    def __init__(self, name: str, what: str, error: BaseException) -> None:
        super().__init__(what)
        self.name = name
        self.what = f"{what} ({type(error).__name__}: {error})"


class InlineRow(NamedTuple):
    """A row as readers get it, its stored bytes and its version; all empty where there is no row."""

    row: Any | None = None
    value: bytes | None = None
    version: int = 0


class InlineProjection:
    """An inline projection, and the form in which its rows are stored.

    The version of a row is a hash of its bytes. So a fold on a row of some version is a fold on exactly these bytes, no
    matter which node wrote them or what was stored in between. A row that was folded on a write that failed is never
    taken for a stored one.
    """

    def __init__(self, bound: BoundProjection) -> None:
        self.bound = bound
        self.name = bound.name
        self.label = f"{bound.version}:{bound.name}"
        self.space = space_of(self.label)
        self._codec = RowCodec(bound.row)

    def keys(self, event: object) -> tuple[str, ...]:
        """The keys of the rows that `event` changes. InlineFailure where `key` fails."""
        try:
            return self.bound.keys(event)
        except BaseException as error:
            raise InlineFailure(self.name, f"its `key` fails for a {type(event).__name__}", error) from error

    def fold(self, row: Any | None, event: object, key: str) -> Any | None:
        """The row after one more event. InlineFailure where the fold fails."""
        try:
            return self.bound.fold(row, event, key, None)
        except BaseException as error:
            what = f"its fold fails for a {type(event).__name__} and the key '{key}'"
            raise InlineFailure(self.name, what, error) from error

    def write(self, key: str, row: Any | None) -> InlineRow:
        """A row that a fold returned, in its stored form. InlineFailure where it could not be read back."""
        if row is None:
            return InlineRow()
        try:
            value, as_read = self._codec.written(row)
        except Exception as error:
            what = f"the row of the key '{key}' is not a {self.bound.row.__name__} that could be read back"
            raise InlineFailure(self.name, what, error) from error
        digest = hashlib.blake2b(value, digest_size=8).digest()
        return InlineRow(as_read, value, int.from_bytes(digest) >> 1 or 1)

    def read(self, key: str, stored: LogRow | None) -> InlineRow:
        """A stored row as the projection folds it. Unavailable where it does not fit its type."""
        if stored is None:
            return InlineRow()
        try:
            return InlineRow(self._codec.decode(stored.value), stored.value, stored.version)
        except msgspec.ValidationError as error:
            raise Unavailable(
                f"The stored row '{key}' of '{self.name}' does not fit {self.bound.row.__name__} "
                f"({misfit_sentence(error).about('the row')}). Raise the "
                "version of the projection, so that its rows are rebuilt.",
                retry_after=30.0,
            ) from error
