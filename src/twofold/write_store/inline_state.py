"""In charge of where inline projections have their rows, beside the events, and of what is noted about them there."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from twofold.codec import RowCodec
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import Unavailable
from twofold.write_store.port import LogRow, RowGuard, RowWrite, WriteStore

SPACE = "inline"
"""What is noted. The rows themselves are in a space for each version of a projection, named behind this."""

COMPLETE = ""
"""A key in the space of a projection, there as long as every row is. Keys of rows are never empty."""

_LISTED = "projections"


class InlineBuildState(msgspec.Struct, frozen=True):
    """How far the rows of one version of a projection are.

    "building": folded up to `position`. "complete": every append keeps them since. "dropping": given up, on their way
    out.
    """

    state: Literal["building", "complete", "dropping"]
    position: Position = 0


class InlineState(NamedTuple):
    """Everything noted, as of one look: which version of which projection every node has to keep, and what is built.

    `version` is that of the list. Each append is guarded by it: who keeps another list writes no events.
    """

    listed: dict[str, int]
    version: int
    built: dict[str, tuple[InlineBuildState, int]]

    @property
    def guard(self) -> RowGuard:
        """What holds as long as nobody lists anything else."""
        return RowGuard(SPACE, _LISTED, self.version)

    def list(self, projections: Mapping[str, int]) -> RowWrite:
        """List these projections in place of those that are listed."""
        return RowWrite(SPACE, _LISTED, msgspec.json.encode(projections), self.version)

    def build(self, label: str, built: InlineBuildState | None) -> RowWrite:
        """Note how far rows are, or (None) that they are gone."""
        _, version = self.built.get(label, (None, 0))
        return RowWrite(SPACE, label, None if built is None else msgspec.json.encode(built), version)

    def unchanged(self, label: str) -> RowGuard:
        """What holds as long as nobody has noted anything else about these rows."""
        return RowGuard(SPACE, label, self.built[label][1])


async def read_inline_state(write_store: WriteStore) -> InlineState:
    """What is noted now."""
    rows = dict(await write_store.rows(SPACE))
    listed = rows.pop(_LISTED, None)
    built = {label: (msgspec.json.decode(row.value, type=InlineBuildState), row.version) for label, row in rows.items()}
    if listed is None:
        return InlineState({}, 0, built)
    return InlineState(msgspec.json.decode(listed.value, type=dict[str, int]), listed.version, built)


async def list_version(write_store: WriteStore) -> int:
    """The version of the list; 0 where there is none."""
    row = (await write_store.rows(SPACE, [_LISTED])).get(_LISTED)
    return 0 if row is None else row.version


def space_of(label: str) -> str:
    """Where the rows of one version of a projection are."""
    return f"{SPACE}:{label}"


class InlineRow(NamedTuple):
    """A row as it is kept: what readers get, its bytes and its version; all of nothing where there is no row."""

    row: Any | None = None
    value: bytes | None = None
    version: int = 0


class InlineProjection:
    """An inline projection, and the form its rows are kept in.

    The version of a row follows from its bytes, and from nothing else. A fold on a row of some version is so a fold on
    just these bytes, whoever wrote them and however often there were others in between: what was folded on top of a
    write that came to nothing can never pass for something else.
    """

    def __init__(self, projection: BoundProjection) -> None:
        self.projection = projection
        self.name = projection.name
        self.label = f"{projection.version}:{projection.name}"
        self.space = space_of(self.label)
        self._codec = RowCodec(projection.row)

    def written(self, row: Any | None) -> InlineRow:
        """A row that a fold returned, as it is to be kept. Raises what `RowCodec.written` raises."""
        if row is None:
            return InlineRow()
        value, as_read = self._codec.written(row)
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
                f"The row '{key}' of '{self.name}' is kept in another shape than {self.projection.row.__name__} has "
                f"now ({error}). Raise the version of the projection: its rows are built anew then.",
                retry_after=30.0,
            ) from error
