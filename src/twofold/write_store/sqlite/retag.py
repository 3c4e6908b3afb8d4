"""Adding tags to stored events."""

from collections.abc import Mapping, Sequence

import apsw
import msgspec

from twofold.domain.events import Envelope, Position

_decode = msgspec.json.Decoder(Envelope).decode
_encode = msgspec.json.Encoder().encode

_FIND = "select type_id, envelope from events where log_id = ? and position = ?"
_ENVELOPE = "update events set envelope = ? where log_id = ? and position = ?"
_TAG = "insert into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?) on conflict do nothing"


def retag(connection: apsw.Connection, log_id: int, tags: Mapping[Position, Sequence[str]]) -> None:
    """Add tags to events, in their envelopes and in the index, in one transaction. LookupError if there is no event."""
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
    envelope = _decode(stored)
    tags = tuple(sorted({*envelope.tags, *added}))
    if tags != envelope.tags:
        changed = _encode(msgspec.structs.replace(envelope, tags=tags))
        connection.execute(_ENVELOPE, (changed, log_id, position))
    connection.executemany(_TAG, [(log_id, tag, type_id, position) for tag in added])
