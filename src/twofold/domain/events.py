"""The shape of events: as a decision makes them, and as the log stores them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

Position = int
"""Place of an event in the log: 1, 2, 3, … without gap or re-use. 0 is before the first."""

Type = type[Any]
"""Any class (a second name, for where a parameter or attribute is called `type`)."""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function from the stored fields of one version of an event to those of the next version."""


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """What is stored about every event. `time` is microseconds since 1970 in UTC.

    `depth` is the causation depth: the number of policies that answered one another from a caller's command to this
    event.
    """

    time: int
    command_id: str
    correlation_id: str
    causation_id: str | None = None
    actor: str | None = None
    depth: int = 0


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An encoded event to be appended. The log gives it its position."""

    id: str
    type: str
    version: int
    tags: tuple[str, ...]
    payload: bytes


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What the log stores about an event besides what a fold needs."""

    id: str
    tags: tuple[str, ...]
    metadata: Metadata


_decode_envelope = msgspec.json.Decoder(Envelope).decode


class RecordedEvent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An event as the log stores it. `payload` is its JSON, in the shape of `version`.

    `wrapped` is its envelope, or the JSON of the envelope: a fold rarely needs it, and decoding it for every event
    would take half of the time.
    """

    position: Position
    type: str
    version: int
    payload: bytes
    wrapped: Envelope | bytes

    @property
    def envelope(self) -> Envelope:
        """Id, tags and metadata."""
        wrapped = self.wrapped
        if not isinstance(wrapped, Envelope):
            wrapped = _decode_envelope(wrapped)
            # The event stays the same for every reader: only the form of the envelope changes.
            msgspec.structs.force_setattr(self, "wrapped", wrapped)
        return wrapped

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
