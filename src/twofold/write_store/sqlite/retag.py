"""Adding tags to stored events."""

from collections.abc import Mapping, Sequence

import apsw

from twofold.domain.envelope import with_tags
from twofold.domain.events import Position

_FIND = "select type_id, tags from events where log_id = ? and position = ?"
_TAGS = "update events set tags = ? where log_id = ? and position = ?"
_TAG = "insert into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?) on conflict do nothing"


def retag(connection: apsw.Connection, log_id: int, tags: Mapping[Position, Sequence[str]]) -> None:
    """Add tags to events, with the events and in the index, in one transaction. LookupError if there is no event."""
    connection.execute("begin immediate")
    try:
        for position, added in tags.items():
            _retag_one(connection, log_id, position, added)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def _retag_one(connection: apsw.Connection, log_id: int, position: Position, added: Sequence[str]) -> None:
    row = connection.execute(_FIND, (log_id, position)).fetchone()
    if row is None:
        raise LookupError(f"There is no event at {position}.")
    type_id, stored = row
    changed = with_tags(stored, added)
    if changed != stored:
        connection.execute(_TAGS, (changed, log_id, position))
    connection.executemany(_TAG, [(log_id, tag, type_id, position) for tag in added])
