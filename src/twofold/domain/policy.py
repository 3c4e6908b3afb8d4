"""Policies: functions that react to an event with a command, now or later, or with an effect outside."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from twofold.domain.decision import Context
from twofold.domain.events import RecordedEvent
from twofold.domain.type_hints import hints_of, union_members
from twofold.errors import WiringError


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
    """

    def __init__(self, name: str, react: Callable[..., Any], *, from_start: bool = False) -> None:
        self.name = name
        self.react = react
        self.from_start = from_start

    def bind(self, names: Mapping[type, str]) -> "BoundPolicy":
        """The policy with its event types resolved. WiringError where they are not listed."""
        return BoundPolicy(self, names)


class BoundPolicy:
    """A policy with its event types resolved. Made once, at start."""

    def __init__(self, policy: Policy, names: Mapping[type, str]) -> None:
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

    def react(self, event: object, recorded: RecordedEvent, context: Context) -> Awaitable[Any]:
        """Call the reaction. Await the result: a command, a Later, a list of both, or None."""
        extra = {"recorded": recorded, "context": context}
        reaction: Awaitable[Any] = self._react(event, *[extra[name] for name in self._extras])
        return reaction
