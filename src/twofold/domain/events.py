"""The shape of events: as a decision makes them, and as the log stores them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from twofold.domain.envelope import (
    Envelope,
    Metadata,
    StoredEnvelope,
    decode_envelope,
    encode_envelope,
    may_be_traced,
)

Position = int
"""Place of an event in the log: 1, 2, 3, … without gap or re-use. 0 is before the first."""

Type = type[Any]
"""Any class (a second name, for where a parameter or attribute is called `type`)."""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function from the stored fields of one version of an event to those of the next version."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An encoded event to be appended. The log gives it its position."""

    id: str
    type: str
    version: int
    tags: tuple[str, ...]
    payload: bytes


class RecordedEvent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An event as the log stores it. `payload` is its JSON, in the shape of `version`.

    `wrapped` is its envelope, or the stored bytes of it: a fold rarely needs it, and decoding it for every event
    would take half of the time. `chain` is the hash of this event and all before it; empty where the event was not read
    from a log.
    """

    position: Position
    type: str
    version: int
    payload: bytes
    wrapped: Envelope | StoredEnvelope
    chain: bytes = b""

    @property
    def envelope(self) -> Envelope:
        """Id, tags and metadata."""
        wrapped = self.wrapped
        if isinstance(wrapped, Envelope):
            return wrapped
        if wrapped.decoded is None:
            wrapped.decoded = decode_envelope(wrapped)
        return wrapped.decoded

    @property
    def stored_envelope(self) -> StoredEnvelope:
        """The bytes to store of the envelope: those that were read, where it was read from a log."""
        wrapped = self.wrapped
        return encode_envelope(wrapped) if isinstance(wrapped, Envelope) else wrapped

    @property
    def id(self) -> str:
        """Unique in the log: the command's id and the index of the event in the command."""
        return self.envelope.id

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags by which it is indexed, sorted."""
        return self.envelope.tags

    @property
    def metadata(self) -> Metadata:
        """Time, actor, and the commands that caused it."""
        return self.envelope.metadata

    @property
    def time(self) -> datetime:
        """The time at which its command was decided, in UTC."""
        return datetime.fromtimestamp(self.metadata.time / 1_000_000, UTC)

    @property
    def actor(self) -> str | None:
        """The sender of the command, where known."""
        return self.metadata.actor

    @property
    def traceparent(self) -> str | None:
        """The span of its command, where the trace of it is sampled."""
        return self.metadata.traceparent if may_be_traced(self.wrapped) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordedEvent) and self._all() == other._all()

    def __ne__(self, other: object) -> bool:
        # The one that Struct defines would compare identities.
        return not self == other

    def __hash__(self) -> int:
        return hash((self.position, self.type))

    def __repr__(self) -> str:
        return f"RecordedEvent({self.position}, {self.type!r}, {self.tags}, {self.payload!r})"

    def _all(self) -> tuple[object, ...]:
        return self.position, self.type, self.version, self.payload, self.envelope


class Event:
    """Lists an event type in a module, with how it is stored.

    `name` is what the log stores: the class name in kebab-case unless given, never the class path. `version` is the
    version of the present shape. `upcasters` has, for each older version, a pure function from its fields to those of
    the next version.
    """

    __slots__ = ("name", "type", "upcasters", "version")

    def __init__(
        self,
        type: Type,
        *,
        name: str | None = None,
        version: int = 1,
        upcasters: Mapping[int, Upcaster] | None = None,
    ) -> None:
        self.type: Type = type
        self.name = name or kebab_case(type.__name__)
        self.version = version
        self.upcasters = dict(upcasters or {})


def kebab_case(name: str) -> str:
    """`OrderPlaced` → `order-placed`, `HTTPCall` → `http-call`."""
    out: list[str] = []
    for i, letter in enumerate(name):
        follows_lower = i > 0 and not name[i - 1].isupper()
        ends_acronym = i > 0 and i + 1 < len(name) and name[i + 1].islower()
        if letter.isupper() and i > 0 and name[i - 1] not in "_-" and (follows_lower or ends_acronym):
            out.append("-")
        out.append("-" if letter == "_" else letter.lower())
    return "".join(out)
