"""Recorded events as they are sent, over HTTP and by `twofold log --json`."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from twofold.codec.stored_json import json_problem, on_one_line
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable

_PIECE = 32_768
_encode = msgspec.json.Encoder().encode


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event as it is sent. `data` has the shape of `version`; `time` is UTC."""

    position: Position
    id: str
    type: str
    version: int
    time: datetime
    tags: tuple[str, ...]
    data: Any
    actor: str | None
    command_id: str
    correlation_id: str
    causation_id: str | None
    depth: int


class EventPage(msgspec.Struct, frozen=True):
    """Some recorded events in order. `token` is the `after` of the next page; `more` says whether the log goes on."""

    events: list[EventRecord]
    token: str
    more: bool


class DamagedEvent(msgspec.Struct, frozen=True):
    """A recorded event that is not stored as JSON: its bytes as text (escaped where they are not UTF-8), and why."""

    position: Position
    type: str
    version: int
    payload: str
    damage: str


def event_record(event: RecordedEvent) -> EventRecord:
    """An event as it is sent. Its payload is put into other JSON as it is: look for `damage` first."""
    metadata = event.metadata
    return EventRecord(
        position=event.position,
        id=event.id,
        type=event.type,
        version=event.version,
        time=event.time,
        tags=event.tags,
        data=msgspec.Raw(on_one_line(event.payload)),
        actor=metadata.actor,
        command_id=metadata.command_id,
        correlation_id=metadata.correlation_id,
        causation_id=metadata.causation_id,
        depth=metadata.depth,
    )


def damage(event: RecordedEvent) -> str | None:
    """Why an event cannot be sent: its payload, or what is stored about it, is not JSON. None if it can be sent."""
    problem = json_problem(event.payload)
    if problem is not None:
        return f"its payload is not JSON ({problem})"
    try:
        # What is stored about an event is decoded when it is first needed.
        _ = event.time, event.tags
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, ValueError) as error:
        return f"what is stored about it is not as it was written ({error})"
    return None


def damaged_event(event: RecordedEvent, problem: str) -> DamagedEvent:
    """An event that cannot be sent, as operators see it."""
    text = event.payload.decode(errors="backslashreplace")
    return DamagedEvent(event.position, event.type, event.version, text, problem)


def undamaged(events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
    """The events before the first damaged one. Unavailable, naming its position, if that is the first one."""
    for index, event in enumerate(events):
        problem = damage(event)
        if problem is not None:
            if index:
                return events[:index]
            raise Unavailable(
                f"The '{event.type}' event at position {event.position} is damaged: {problem}. The operator of this "
                "log must restore it.",
                retry_after=30.0,
            )
    return events


def page_in_pieces(events: Sequence[RecordedEvent], token: str, *, more: bool) -> Iterator[bytes]:
    """An `EventPage` as JSON, encoded piece by piece."""
    piece = bytearray(b'{"events":[')
    for index, event in enumerate(events):
        if index:
            piece += b","
        piece += _encode(event_record(event))
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    piece += b'],"token":%s,"more":%s}' % (_encode(token), _encode(more))
    yield bytes(piece)
