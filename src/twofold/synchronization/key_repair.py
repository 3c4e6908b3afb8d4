"""What the row of a key must be: folded from the first event of the key, and compared with the stored row."""

import logging
from typing import Any, NamedTuple

import msgspec

from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import InvalidMessage
from twofold.read_store.port import RawRow, VersionedRow
from twofold.synchronization.folding import ABSENT, FoldFailed, fold_all
from twofold.synchronization.follower import Skips
from twofold.synchronization.key_event_reader import KeyEventReader

log = logging.getLogger(__name__)

OTHER_TAG = (
    "The event at {position} touches the key '{key}', but is not stored under its tag: an upcaster changes the value. "
    "Run `twofold reindex`, then retry."
)


class Refolded(NamedTuple):
    """The row to store (None: the stored one is right), and the event that cannot be folded, if there is one.

    `waiting` counts the events of the key after that one.
    """

    row: VersionedRow | None
    failed: FoldFailed | None
    waiting: int


async def refold(
    projection: BoundProjection, events: KeyEventReader, key: str, stored: RawRow, at: Position, skips: Skips
) -> Refolded:
    """A key folded from its first event up to a position. InvalidMessage if its events cannot be found by its tag."""
    work = await events.of(key, 0, at)
    positions = {recorded.position for recorded in work.recorded}
    known = positions | events.without(key)
    if stored.position not in known and await events.touch(stored.position, key):
        raise InvalidMessage(OTHER_TAG.format(key=key, position=stored.position), field="key")
    failed = None
    try:
        rows = fold_all(projection, work, {}, skips)
    except FoldFailed as error:
        failed = error
        rows = fold_all(projection, work.before(error.position), {}, skips)
    right = rows.get(key, ABSENT)
    waiting = 0 if failed is None else len({each for each in positions if each > failed.position})
    unchanged = right.row is None or right.position == stored.position
    if unchanged and not stored.corruption and _encoded(right.row) == _encoded(stored.row):
        return Refolded(None, failed, waiting)
    previous = (*right.previous_rows, *_as_row(projection, stored.row))
    row = VersionedRow(right.row, max(right.position, 1), stored.repair + 1, previous)
    return Refolded(row, failed, waiting)


def _as_row(projection: BoundProjection, stored: Any | None) -> list[Any]:
    """The stored row, so that the store finds all its copies. Nothing if it does not fit the row type."""
    if stored is None:
        return []
    try:
        return [msgspec.convert(stored, projection.row)]
    except msgspec.ValidationError as error:
        log.warning("%s: the row to repair does not fit its type: %s", projection.name, error)
        return []


def _encoded(row: Any | None) -> bytes:
    """A row, or the JSON data of one, as bytes. 1, 1.0 and true differ."""
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(row)), order="deterministic")
