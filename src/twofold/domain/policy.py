"""Policies: functions that react to an event with a command, now or later, or with an effect outside."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from twofold.domain.decision import Context
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import RecordedEvent
from twofold.domain.tags import TagReader, tag_of
from twofold.domain.type_hints import hints_of, union_members
from twofold.errors import WiringError

WHOLE_POLICY = "all"
"""The key of every event of a policy without a `key`. A tag has a colon, so it is none of those."""
_ALONE = "parked:"
_TAKEN = ("parked", "due")


class Later(msgspec.Struct, frozen=True):
    """A command to send when `after` has passed since the event. It is stored durably until then."""

    command: Any
    after: timedelta


def causation_depth(command: Any, event_depth: int) -> int:
    """The causation depth of a command that answers an event of this depth: one more.

    Each full second that a `Later` waits takes one off: a timer that sets itself again is no storm, however long it
    runs.
    """
    waited = int(command.after.total_seconds()) if isinstance(command, Later) else 0
    return max(0, event_depth + 1 - max(0, waited))


class Policy:
    """A reaction to events, by name: an `async def react(event: A | B) -> command | Later | list | None`.

    It may also take a parameter annotated RecordedEvent (time, actor, position) and one annotated Context. Each command
    it returns is written in one commit with the record that it is sent, so it takes effect once, even if the reaction
    runs several times. For an effect outside (a mail, a payment), pass `context.command_id` as the idempotency key: it
    is derived from policy and event, the same each time. A policy never runs again over old events. A new policy starts
    at the head of the log, or at the first event with `from_start`.

    `key` is a tag type that each of the events carries once, for example `OrderId`. Events with the same tag are
    answered in their order, one after another; those of different keys at the same time. An event that fails lets the
    later ones of its key wait. Without `key` all events of the policy are one key: strictly in the order of the log.
    """

    def __init__(self, name: str, react: Callable[..., Any], *, key: object = None, from_start: bool = False) -> None:
        self.name = name
        self.react = react
        self.key = key
        self.from_start = from_start

    def bind(self, names: Mapping[type, str], readers: Mapping[type, TagReader]) -> "BoundPolicy":
        """The policy with its event types and its key resolved. WiringError where they do not fit."""
        return BoundPolicy(self, names, readers)


def alone(position: int) -> str:
    """The key of an event that waits for no other, and for which no other waits."""
    return f"{_ALONE}{position}"


def is_alone(key: str) -> bool:
    """Whether a key is that of a single event."""
    return key.startswith(_ALONE) and key.removeprefix(_ALONE).isdecimal()


class BoundPolicy:
    """A policy with its event types resolved. Made once, at start."""

    def __init__(self, policy: Policy, names: Mapping[type, str], readers: Mapping[type, TagReader]) -> None:
        self.name = policy.name
        self.from_start = policy.from_start
        self._react = policy.react
        label = f"Policy({policy.name!r})"
        if not inspect.iscoroutinefunction(policy.react):
            raise WiringError(f"{label}: the reaction must be `async def`, because it may call external systems.")
        hints = hints_of(policy.react, label)
        parameters = list(inspect.signature(policy.react).parameters)
        if not parameters or parameters[0] not in hints:
            raise WiringError(f"{label}: annotate the event, e.g. `async def react(event: OrderPlaced)`.")
        self._extras: list[str] = []
        for name in parameters[1:]:
            if hints.get(name) not in (RecordedEvent, Context):
                raise WiringError(f"{label}: parameter '{name}' must be annotated RecordedEvent or Context.")
            self._extras.append("recorded" if hints[name] is RecordedEvent else "context")
        self.events = union_members(hints[parameters[0]])
        for event in self.events:
            if event not in names:
                type_name = getattr(event, "__name__", event)
                raise WiringError(
                    f"{label} reacts to {type_name}, which no module lists. Add {type_name} to `events=[…]`."
                )
        self.types = tuple(names[event] for event in self.events)
        self._key_kind = None if policy.key is None else self._kind_of(policy.key, label, readers)

    @property
    def keyed(self) -> bool:
        """Whether its events have different keys."""
        return self._key_kind is not None

    def key_of(self, recorded: RecordedEvent) -> str:
        """The key of an event: its tag of the kind of `key`, as `kind:value`. The same for all without a `key`."""
        if self._key_kind is None:
            return WHOLE_POLICY
        start = f"{self._key_kind}:"
        # An event that was stored before its type had this tag is a key of its own.
        return next((tag for tag in recorded.tags if tag.startswith(start)), alone(recorded.position))

    def events_of(self, key: str) -> EventQuery:
        """Selects the events of a key, also of a key that another `key` of this policy made."""
        tags = () if key == WHOLE_POLICY or is_alone(key) else (key,)
        return EventQuery((QueryItem(self.types, tags),))

    def _kind_of(self, key: object, label: str, readers: Mapping[type, TagReader]) -> str:
        tag = tag_of(key)
        if tag is None:
            raise WiringError(f"{label}: `key` takes a tag type, for example OrderId.")
        if tag.kind in _TAKEN:
            raise WiringError(f"{label}: `key` cannot be the tag '{tag.kind}': what is parked has other names like it.")
        for event in self.events:
            reader = readers[event]
            if not reader.is_single(tag.kind) or reader.is_optional(tag.kind):
                raise WiringError(
                    f"{label}: its key is the tag '{tag.kind}', and {event.__name__} does not carry it exactly once. "
                    f"Give {event.__name__} one field whose type is tagged Tag('{tag.kind}'), or choose another `key`."
                )
        return tag.kind

    def react(self, event: object, recorded: RecordedEvent, context: Context) -> Awaitable[Any]:
        """Call the reaction. Await the result: a command, a Later, a list of both, or None."""
        extra = {"recorded": recorded, "context": context}
        reaction: Awaitable[Any] = self._react(event, *[extra[name] for name in self._extras])
        return reaction
