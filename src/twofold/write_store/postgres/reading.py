"""The arguments of the SQL function `read`, and its rows as events."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from twofold.domain.envelope import StoredEnvelope
from twofold.domain.event_query import AppendCondition
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable
from twofold.write_store.checksums import damaged_row, row_checksum
from twofold.write_store.port import PAGE_BYTES, Appended, LogRow, Slice

_encode_json = msgspec.json.Encoder().encode
_HEAD, _COMMAND = -1, -2


class ReadResponse(NamedTuple):
    """The rows of one call of `read`: one snapshot. `known_chain` is the chain at the position the caller has seen."""

    head: Position
    chain: bytes
    known_chain: bytes | None
    epoch: int
    outcome: Appended | None
    events: Sequence[Sequence[Any]]


def arguments(
    conditions: Sequence[AppendCondition],
    command_id: str | None,
    limit: int | None,
    known: Position = 0,
    size: int = PAGE_BYTES,
) -> tuple[int | None, int | None, list[int], list[str | None], list[str], str | None, str | None, Position, int]:
    """The arguments of `read`, and the size at which its events end.

    `known` is the last position that the caller has seen.
    """
    afters: list[int] = []
    tags: list[str | None] = []
    types: list[str] = []
    wide: list[dict[str, Any]] = []
    if _wants_all(conditions):
        return limit, min(condition.after for condition in conditions), [], [], [], None, command_id, known, size
    for condition in conditions:
        for item in condition.query.items:
            if not item.types or len(item.tags) > 1:
                wide.append({"after": condition.after, "tags": item.tags, "types": item.types or None})
                continue
            tag = item.tags[0] if item.tags else None
            for type in item.types:
                afters.append(condition.after)
                tags.append(tag)
                types.append(type)
    return limit, None, afters, tags, types, _encode_json(wide).decode() if wide else None, command_id, known, size


def response(rows: Sequence[Sequence[Any]]) -> ReadResponse:
    """The rows of `read`, by their kinds."""
    head, kind, epoch, known_chain, _, _, chain = rows[0]
    if kind != _HEAD:
        raise ConnectionError("the server answered another call")
    if len(rows) > 1 and rows[1][1] == _COMMAND:
        position, _, count, _, _, _, then = rows[1]
        return ReadResponse(head, chain, known_chain, epoch, Appended(position, count, chain=then), rows[2:])
    return ReadResponse(head, chain, known_chain, epoch, None, rows[1:])


def rows_of(space: str, result: Sequence[Sequence[Any]]) -> tuple[ReadResponse, dict[str, LogRow]]:
    """Head and epoch, and the rows of a space, from the result of the SQL function `rows_of`.

    Unavailable where a row is not what was written.
    """
    if not result or result[0][0] is not None:
        raise ConnectionError("the server answered another call")
    _, chain, head, epoch, _ = result[0]
    rows: dict[str, LogRow] = {}
    for key, value, version, _, checksum in result[1:]:
        if row_checksum(space, key, version, value) != checksum:
            raise Unavailable(damaged_row(space, key), retry_after=60.0)
        rows[key] = LogRow(value, version)
    return ReadResponse(head, chain, None, epoch, None, ()), rows


def slice_of(response: ReadResponse, names: Mapping[int, str], limit: int | None, size: int = PAGE_BYTES) -> Slice:
    """The events of a response, up to the one that brings their bytes to `size`.

    KeyError where the number of a type is not in `names`.
    """
    events: list[RecordedEvent] = []
    held = 0
    for position, type_id, version, payload, envelope, tags, chain in response.events:
        stored = StoredEnvelope(envelope, tags)
        events.append(RecordedEvent(position, names[type_id], version, payload, stored, chain))
        held += len(payload) + len(envelope) + len(tags)
        if held >= size:
            break
    full = held >= size or (limit is not None and len(events) == limit)
    if full and events:
        return Slice(events, events[-1].position, response.head, events[-1].chain)
    return Slice(events, response.head, response.head, response.chain)


def _wants_all(conditions: Sequence[AppendCondition]) -> bool:
    """Whether every condition selects every event, so that the log itself is the index."""
    return bool(conditions) and all(
        any(not item.types and not item.tags for item in condition.query.items) for condition in conditions
    )
