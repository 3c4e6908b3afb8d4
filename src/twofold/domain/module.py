"""Modules: what belongs together, and the checks of the wiring."""

import inspect
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, TypeVar, cast

from twofold.domain.decision import BoundModel, Decision, DecisionModel
from twofold.domain.events import Event, kebab_case
from twofold.domain.policy import BoundPolicy, Policy
from twofold.domain.projection import BoundProjection, Projection
from twofold.domain.tags import TagReader
from twofold.domain.type_hints import hints_of, is_frozen, is_record
from twofold.errors import WiringError

Bound = TypeVar("Bound", BoundProjection, BoundPolicy)


class Module:
    """The table of contents of one bounded part of a domain. Every list has plain types and functions.

    `events`: event types, or `Event(…)` for a stored name, version or upcasters. `models`: decision models.
    `decisions`: pure functions from a command and models to events. `projections`. `queries`: async functions from a
    query and views to an answer. `policies`: reactions to events. `prepare`: async functions from a command to the same
    command, completed with external data before it is decided. `internal`: types of commands and queries that are not
    on the wire: only policies and code send or ask them.
    """

    def __init__(
        self,
        name: str,
        *,
        events: Sequence[type | Event] = (),
        models: Sequence[DecisionModel] = (),
        decisions: Sequence[Callable[..., Any]] = (),
        projections: Sequence[Projection] = (),
        queries: Sequence[Callable[..., Any]] = (),
        policies: Sequence[Policy] = (),
        prepare: Sequence[Callable[..., Any]] = (),
        internal: Sequence[type] = (),
    ) -> None:
        self.name = name
        self.events = tuple(event if isinstance(event, Event) else Event(event) for event in events)
        self.models = tuple(models)
        self.decisions = tuple(decisions)
        self.projections = tuple(projections)
        self.queries = tuple(queries)
        self.policies = tuple(policies)
        self.prepare = tuple(prepare)
        self.internal = tuple(internal)


class Wiring:
    """All modules of an app, put together and checked. WiringError, with the cure, where they do not fit."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.modules = tuple(modules)
        self.events: dict[str, Event] = {}
        for module in self.modules:
            for event in module.events:
                self._add_event(event)
        self.names = {event.type: name for name, event in self.events.items()}
        self.readers = {event.type: TagReader(event.type) for event in self.events.values()}
        self.models = self._bind_models()
        self.decisions: dict[type, Decision] = {}
        for function in (f for module in self.modules for f in module.decisions):
            self._add_decision(Decision(function, self.models, self.names))
        self.commands = _by_name("command", self.decisions)
        self.prepare: dict[type, Callable[..., Any]] = {}
        for function in (f for module in self.modules for f in module.prepare):
            self._add_prepare(*_prepared(function, self.decisions))
        self.projections: dict[str, BoundProjection] = _unique(
            BoundProjection(p, self.names, self.readers) for module in self.modules for p in module.projections
        )
        self.policies: dict[str, BoundPolicy] = _unique(
            p.bind(self.names, self.readers) for module in self.modules for p in module.policies
        )
        for name in self.projections.keys() & self.policies.keys():
            raise WiringError(f"'{name}' names both a projection and a policy. Give one of them another name.")
        rebuilt = [name for name, projection in self.projections.items() if projection.lifecycle == "async"]
        self.followers = {**dict.fromkeys(rebuilt, "projection"), **dict.fromkeys(self.policies, "policy")}
        """The kind of each follower of the log by its name. Operators act on these, and commands may wait for them."""
        self.internal = frozenset(message for module in self.modules for message in module.internal)

    def _add_event(self, event: Event) -> None:
        check_message(event.type, "event")
        for other in self.events.values():
            if other.type is event.type:
                raise WiringError(
                    f"{event.type.__qualname__} is listed twice as event, stored as '{other.name}' and as "
                    f"'{event.name}'. Keep one of them: every module may read the events that one module lists."
                )
        known = self.events.setdefault(event.name, event)
        if known is not event:
            raise WiringError(
                f"{known.type.__qualname__} and {event.type.__qualname__} are both stored as '{event.name}'. List one "
                f"as Event({event.type.__name__}, name='…') with another name."
            )
        if event.version < 1:
            raise WiringError(f"Event({event.type.__name__}, version={event.version}): versions count up from 1.")
        stray = [v for v in event.upcasters if not 1 <= v < event.version]
        if stray:
            raise WiringError(
                f"Event({event.type.__name__}, version={event.version}) has an upcaster from version {stray[0]}, "
                "which is not an older version. Raise `version`, or remove the upcaster."
            )
        missing = [v for v in range(1, event.version) if v not in event.upcasters]
        if missing:
            raise WiringError(
                f"Event({event.type.__name__}, version={event.version}) has no upcaster from version {missing[0]}. "
                f"Add upcasters={{{missing[0]}: function}}."
            )

    def _bind_models(self) -> dict[type, BoundModel]:
        models: dict[type, BoundModel] = {}
        for model in (m for module in self.modules for m in module.models):
            if model.state in models:
                raise WiringError(
                    f"DecisionModel({model.state.__name__}) is listed twice, but a state type stands for one model."
                )
            models[model.state] = BoundModel(model, self.names, self.readers)
        return models

    def _add_decision(self, decision: Decision) -> None:
        check_message(decision.command, "command")
        known = self.decisions.setdefault(decision.command, decision)
        if known is not decision:
            raise WiringError(
                f"{known.name} and {decision.name} both decide {decision.command.__name__}. A command has one "
                "decision: remove one, or let it take another command."
            )

    def _add_prepare(self, command: type, function: Callable[..., Any]) -> None:
        known = self.prepare.setdefault(command, function)
        if known is not function:
            raise WiringError(
                f"{known.__qualname__} and {function.__qualname__} both prepare {command.__name__}. Keep one prepare "
                "step for a command; it may call the other."
            )


def check_message(message: Any, role: str) -> None:
    """WiringError unless `message` is an immutable record: a frozen msgspec Struct or a frozen dataclass."""
    shown = getattr(message, "__qualname__", repr(message))
    if not is_record(message):
        raise WiringError(
            f"{shown} is listed as {role} but is not a record. Make it a msgspec Struct or dataclass, frozen=True."
        )
    if not is_frozen(message):
        raise WiringError(f"{shown} is listed as {role} but can be changed after it is made. Add frozen=True.")


def _by_name(role: str, types: Iterable[type]) -> dict[str, type]:
    names: dict[str, type] = {}
    for cls in types:
        name = kebab_case(cls.__name__)
        if names.setdefault(name, cls) is not cls:
            raise WiringError(f"Two types have the {role} name '{name}'. Rename one of them.")
    return names


def _unique(bound: Iterable[Bound]) -> dict[str, Bound]:
    by_name: dict[str, Bound] = {}
    for one in bound:
        if by_name.setdefault(one.name, one) is not one:
            raise WiringError(f"{type(one).__name__} '{one.name}' is listed twice. Give one of them another name.")
    return by_name


def _prepared(function: Callable[..., Any], decisions: Container[Any]) -> tuple[type, Callable[..., Any]]:
    name = getattr(function, "__qualname__", repr(function))
    hints = hints_of(function, name)
    parameters = list(inspect.signature(function).parameters)
    command: Any = hints.get(parameters[0]) if len(parameters) == 1 else None
    if not inspect.iscoroutinefunction(function) or command is None or hints.get("return") is not command:
        raise WiringError(f"{name}: a prepare step is `async def {name}(command: C) -> C` for one command type C.")
    if command not in decisions:
        raise WiringError(
            f"{name} prepares {getattr(command, '__name__', command)}, which no decision takes. List one in "
            f"`decisions=[…]`."
        )
    return cast("type", command), function
