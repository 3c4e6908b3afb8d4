"""In charge of policies: functions that react to an event with a command, now or later, or with an effect outside."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from twofold.domain.decision import Context, arms_of
from twofold.domain.events import RecordedEvent
from twofold.domain.tags import hints_of
from twofold.errors import WiringError


class Later(msgspec.Struct, frozen=True):
    """A command to be sent once `after` has passed since the event. Kept durably until then."""

    command: Any
    after: timedelta


class Policy:
    """Lists a reaction to events: an `async def react(event: A | B) -> command | Later | list | None`.

    It may also take a parameter annotated RecordedEvent (time, actor, position) and one annotated Context. The commands
    it returns get ids derived from policy and event, so they take effect once however often the reaction runs. For an
    effect outside (a mail, a payment) `context.command_id` is that same derived id: hand it on as the idempotency key.
    A policy is never run again over old events; a new one starts at the head of the log unless `from_start` says
    otherwise.
    """

    def __init__(self, name: str, react: Callable[..., Any], *, from_start: bool = False) -> None:
        self.name = name
        self.react = react
        self.from_start = from_start

    def bind(self, names: Mapping[type, str]) -> "BoundPolicy":
        """The policy with its event types resolved. WiringError where they are not listed."""
        return BoundPolicy(self, names)


class BoundPolicy:
    """A policy with its event types resolved; made once at start."""

    def __init__(self, policy: Policy, names: Mapping[type, str]) -> None:
        self.name = policy.name
        self.from_start = policy.from_start
        self._react = policy.react
        label = f"Policy({policy.name!r})"
        if not inspect.iscoroutinefunction(policy.react):
            raise WiringError(f"{label}: the reaction must be `async def`, since it may act on the world outside.")
        hints = hints_of(policy.react, label)
        parameters = list(inspect.signature(policy.react).parameters)
        if not parameters or parameters[0] not in hints:
            raise WiringError(f"{label}: annotate the event, e.g. `async def react(event: OrderPlaced)`.")
        self._extras: list[str] = []
        for name in parameters[1:]:
            if hints.get(name) not in (RecordedEvent, Context):
                raise WiringError(f"{label}: parameter '{name}' must be annotated RecordedEvent or Context.")
            self._extras.append("recorded" if hints[name] is RecordedEvent else "context")
        self.events = arms_of(hints[parameters[0]])
        for event in self.events:
            if event not in names:
                shown = getattr(event, "__name__", event)
                raise WiringError(f"{label} reacts to {shown}, which no module lists. Add {shown} to `events=[…]`.")
        self.types = tuple(names[event] for event in self.events)

    def react(self, event: object, recorded: RecordedEvent, context: Context) -> Awaitable[Any]:
        """The reaction under way: await it for the command, Later, list of them, or None it answers with."""
        extra = {"recorded": recorded, "context": context}
        reaction: Awaitable[Any] = self._react(event, *[extra[name] for name in self._extras])
        return reaction
