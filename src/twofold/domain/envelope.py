"""The envelope of an event: what is stored about it besides its payload, and the bytes of that."""

from collections.abc import Sequence

import msgspec

from twofold.domain.actor import Actor


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Who sent a command, and which command and event led to it. `depth` and `traceparent` are as in `Metadata`."""

    actor: Actor | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    depth: int = 0
    traceparent: str | None = None


UNKNOWN_ORIGIN = Origin()


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """What is stored about every event. `time` is microseconds since 1970 in UTC.

    `depth` is the causation depth: the number of policies that answered one another from a caller's command to this
    event. `traceparent` names the span of the command, in the form of W3C Trace Context; None unless its trace is
    sampled.
    """

    time: int
    command_id: str
    correlation_id: str
    causation_id: str | None = None
    actor: str | None = None
    depth: int = 0
    traceparent: str | None = None


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What the log stores about an event besides what a fold needs."""

    id: str
    tags: tuple[str, ...]
    metadata: Metadata


class StoredEnvelope(msgspec.Struct, gc=False):
    """An envelope as its stored bytes, which are decoded once, when they are first needed.

    `head` is the JSON of id and metadata, `tags` the JSON of the tags. The tags are apart because `twofold reindex`
    adds to them, and everything else of an event never changes.
    """

    head: bytes
    tags: bytes
    decoded: Envelope | None = None


class _StoredHead(msgspec.Struct, array_like=True, gc=False):
    """The stored form of id and metadata: an array that ends before the first field from which on all are as here.

    `id` is the index of the event in its command where the id is made of both and the index is below 10,000.
    `correlation_id` None is the command's.
    """

    command_id: str
    time: int
    id: int | str
    correlation_id: str | None = None
    causation_id: str | None = None
    actor: str | None = None
    depth: int = 0
    traceparent: str | None = None


_encode = msgspec.json.Encoder().encode
_INDEX = {str(index): index for index in range(10_000)}
"""The indexes that stand for an id: text and number of each. Looking one up takes a tenth of parsing it."""
_TRACED = b'-01"]'
"""How a stored head with a sampled trace ends: no other one does, unless an id or an actor ends so."""
_decode_head = msgspec.json.Decoder(_StoredHead).decode
_decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode


def encode_envelope(envelope: Envelope) -> StoredEnvelope:
    """The bytes to store of an envelope."""
    return StoredEnvelope(encode_head(envelope.id, envelope.metadata), _encode(envelope.tags))


def encode_head(event_id: str, metadata: Metadata) -> bytes:
    """The bytes to store of an event's id and metadata."""
    command_id = metadata.command_id
    prefix, _, index = event_id.rpartition(".")
    short = _INDEX.get(index) if prefix == command_id else None
    id = event_id if short is None else short
    correlation_id = None if metadata.correlation_id == command_id else metadata.correlation_id
    causation_id, actor, depth = metadata.causation_id, metadata.actor, metadata.depth
    if metadata.traceparent is not None:
        traced = correlation_id, causation_id, actor, depth, metadata.traceparent
        return _encode((command_id, metadata.time, id, *traced))
    if correlation_id is causation_id is actor is None and not depth:
        return _encode((command_id, metadata.time, id))
    return _encode((command_id, metadata.time, id, correlation_id, causation_id, actor, depth))


def encode_tags(tags: tuple[str, ...]) -> bytes:
    """The bytes to store of an event's tags."""
    return _encode(tags)


def with_tags(stored: bytes, added: Sequence[str]) -> bytes:
    """Stored tags with some more; the same bytes where all of them are there."""
    tags = _decode_tags(stored)
    more = tuple(sorted({*tags, *added}))
    return stored if more == tags else _encode(more)


def decode_envelope(stored: StoredEnvelope) -> Envelope:
    """The envelope of stored bytes. msgspec.DecodeError where they are damaged."""
    head = _decode_head(stored.head)
    command_id = head.command_id
    return Envelope(
        f"{command_id}.{head.id}" if isinstance(head.id, int) else head.id,
        _decode_tags(stored.tags),
        Metadata(
            head.time,
            command_id,
            command_id if head.correlation_id is None else head.correlation_id,
            head.causation_id,
            head.actor,
            head.depth,
            head.traceparent,
        ),
    )


def may_be_traced(wrapped: Envelope | StoredEnvelope) -> bool:
    """False where an envelope has no `traceparent` for certain. Stored bytes are not decoded for that."""
    if isinstance(wrapped, Envelope):
        return wrapped.metadata.traceparent is not None
    return wrapped.head.endswith(_TRACED)
