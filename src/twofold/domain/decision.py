"""Decisions: their consistency boundary, read from the signature, the fold of models, and the decision."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, cast

import msgspec

from twofold.domain.actor import Actor
from twofold.domain.command_ids import derived_id
from twofold.domain.event_query import QueryItem
from twofold.domain.events import RecordedEvent
from twofold.domain.tags import TagReader, id_reader, tag_of
from twofold.domain.type_hints import (
    IterableHint,
    MappingHint,
    hints_of,
    is_frozen,
    is_record,
    read_hint,
    union_members,
    without_none,
)
from twofold.errors import FunctionFailed, TwofoldError, WiringError, failed


class Context:
    """What a decision may use besides models: the time, the actor, and new ids.

    Ids derive from the command id and the secret of the log. So a repeated decision makes the same ids, and the sender
    of the command cannot predict them. `time` is in UTC. `actor` is who sent the command, None where nobody is known.
    """

    __slots__ = ("_made", "_secret", "actor", "command_id", "time")

    def __init__(self, command_id: str, time: datetime, actor: Actor | None = None, *, secret: bytes = b"") -> None:
        self.command_id = command_id
        self.time = time
        self.actor = actor
        self._secret = secret
        self._made = 0

    def new_id(self) -> str:
        """A new UUID as text. The n-th one of a command is always the same."""
        self._made += 1
        return derived_id(self._secret, "new-id", self.command_id, self._made)


class DecisionModel:
    """Lists a state that is folded from events in order to decide.

    `state` is a type that can be made without arguments and has `evolve(self, event: A | B) -> state`. `by` is the tag
    type of the thing it is about (`by=OrderId`). With a list of tag types it is folded from events that carry all of
    these tags; without `by`, from every event of its types.

    Raise `version` where stored snapshots of the state must not be used any more, although neither the code of `evolve`
    nor what it names has changed: where it depends on what is not code.
    """

    def __init__(self, state: type, *, by: object = None, version: int | None = None) -> None:
        self.state = state
        self.kinds = _kinds(state, by)
        self.version = version


class BoundModel:
    """A decision model with its event types resolved; made once at start."""

    def __init__(self, model: DecisionModel, names: Mapping[type, str], readers: Mapping[type, TagReader]) -> None:
        self.state: type[Any] = model.state
        self.kinds = model.kinds
        self.version = model.version
        self.name = f"DecisionModel({self.state.__name__})"
        self._function = f"{self.state.__name__}.evolve"
        evolve: Callable[..., Any] | None = getattr(self.state, "evolve", None)
        if evolve is None:
            raise WiringError(f"{self.name}: {self.state.__name__} has no `evolve`. Add `def evolve(self, event: …)`.")
        self.events, self.takes_recorded = _evolve_hints(evolve, self.state)
        self._id_fields = _fields_for_ids(self.state, self.kinds)
        self.types = tuple(self._stored_name(event, names, readers) for event in self.events)
        self._evolve = evolve
        self._check_state()

    def initial(self, tags: tuple[str, ...]) -> Any:
        """The state before the first event, with the ids it has fields for."""
        if not self._id_fields:
            return self.state()
        values = {kind: tag.partition(":")[2] for kind, tag in zip(self.kinds, tags, strict=True)}
        return self.state(**{name: read(values[kind]) for name, (kind, read) in self._id_fields.items()})

    def evolve(self, state: Any, event: object, recorded: RecordedEvent | None) -> Any:
        """The state after one more event. Without `recorded` only where the model does not take it."""
        try:
            after = self._evolve(state, event, recorded) if self.takes_recorded else self._evolve(state, event)
        except TwofoldError:
            raise
        except BaseException as error:
            raise failed(self._function, error) from error
        if not isinstance(after, self.state):
            raise FunctionFailed(
                self._function,
                f"returned {type(after).__name__} for {type(event).__name__}, but it returns a state in every case",
                f"{after!r:.100}",
            )
        return after

    def fold(self, state: Any, past: Iterable[tuple[object, RecordedEvent]]) -> Any:
        """The state after many more events."""
        if self.takes_recorded:
            for event, recorded in past:
                state = self.evolve(state, event, recorded)
            return state
        evolve, expected = self._evolve, self.state
        try:
            for event, recorded in past:
                before, state = state, evolve(state, event)
                if not isinstance(state, expected):
                    return self.evolve(before, event, recorded)
        except TwofoldError:
            raise
        except BaseException as error:
            raise failed(self._function, error) from error
        return state

    def _check_state(self) -> None:
        try:
            inspect.signature(self.state).bind(**self._id_fields)
        except TypeError as error:
            raise WiringError(
                f"{self.name}: {self.state.__name__}() fails ({error}). Give every field a default."
            ) from error
        if is_record(self.state) and not is_frozen(self.state):
            raise WiringError(
                f"{self.name}: {self.state.__name__} can be changed after it is made, but its folds are cached and "
                "shared. Add frozen=True, and let `evolve` return a new state."
            )

    def _stored_name(self, event: type, names: Mapping[type, str], readers: Mapping[type, TagReader]) -> str:
        shown = getattr(event, "__name__", event)
        if event not in names:
            raise WiringError(f"{self.name} reads {shown}, which no module lists. Add {shown} to `events=[…]`.")
        for kind in self.kinds:
            if kind not in readers[event].kinds:
                raise WiringError(
                    f"{self.name} is folded by the tag '{kind}', but {event.__name__} does not carry it, so the model "
                    f"would never see it. Give {event.__name__} a field whose type is tagged Tag('{kind}')."
                )
        return names[event]


class Fold(msgspec.Struct, frozen=True, cache_hash=True):
    """One decision model of one thing: the unit that is loaded, cached and checked."""

    model: BoundModel
    tags: tuple[str, ...]

    @property
    def item(self) -> QueryItem:
        """Selects the events of this fold."""
        return QueryItem(self.model.types, self.tags)


class _ModelParameter(NamedTuple):
    """One model parameter of a decision: its folds for a command, and how its argument is made from them."""

    name: str
    model: BoundModel
    many: bool
    key: Callable[[str], Any] = str
    """If `many`: turns the text of a tag into a key of the dict."""

    def folds(self, command: object, reader: TagReader) -> tuple[Fold, ...]:
        if len(self.model.kinds) == 1:
            (kind,) = self.model.kinds
            return tuple([Fold(self.model, (f"{kind}:{value}",)) for value in reader.values(command, kind)])
        tags: list[str] = []
        for kind in self.model.kinds:
            values = reader.values(command, kind)
            if not values:
                return ()
            tags.append(f"{kind}:{values[0]}")
        return (Fold(self.model, tuple(tags)),)


class Boundary(msgspec.Struct, frozen=True):
    """The consistency boundary of one command: the folds each parameter of its decision needs."""

    by_parameter: tuple[tuple[Fold, ...], ...]
    folds: tuple[Fold, ...]


class Decision:
    """A decision function and its signature: the command it takes, the folds it needs, how to call it."""

    def __init__(
        self, function: Callable[..., Any], models: Mapping[type, BoundModel], names: Mapping[type, str]
    ) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", repr(function))
        self._label = f"The decision {self.name}"
        self._names = names
        if inspect.iscoroutinefunction(function):
            raise WiringError(f"{self.name} is async, but a decision is pure. Fetch what it needs in a `prepare` step.")
        hints = hints_of(function, self.name)
        annotated = frozenset(hints)
        returns = hints.pop("return", None)
        names_of_parameters = list(inspect.signature(function).parameters)
        missing = [name for name in names_of_parameters if name not in hints]
        if not names_of_parameters or missing:
            raise WiringError(
                f"{self.name}: annotate every parameter; the first is the command (without a hint: "
                f"{', '.join(missing) or 'none given'})."
            )
        self.command: type = hints[names_of_parameters[0]]
        if not is_record(self.command):
            raise WiringError(
                f"{self.name}: its first parameter '{names_of_parameters[0]}' must be one command type, a frozen "
                f"Struct or dataclass, not {self.command}. A command has one decision, and a decision one command."
            )
        self._reader = TagReader(self.command)
        self._context: str | None = None
        self.parameters: list[_ModelParameter] = []
        for name in names_of_parameters[1:]:
            if hints[name] is Context:
                self._context = name
            else:
                self.parameters.append(self._parameter(name, hints[name], models))
        self._check_returns(returns, "return" in annotated, names)

    def boundary(self, command: object) -> Boundary:
        """The folds that are needed to decide `command`. InvalidMessage where one of its ids cannot be a tag."""
        by_parameter = tuple([parameter.folds(command, self._reader) for parameter in self.parameters])
        if len(by_parameter) == 1:
            return Boundary(by_parameter, by_parameter[0])
        return Boundary(by_parameter, tuple(dict.fromkeys([fold for folds in by_parameter for fold in folds])))

    @property
    def takes_context(self) -> bool:
        """Whether the function has a parameter for the context."""
        return self._context is not None

    def decide(
        self, command: object, boundary: Boundary, states: Mapping[Fold, Any], context: Context | None
    ) -> tuple[object, ...]:
        """The events of `command`, none if nothing changes. Rejected if a rule forbids it.

        `context` may be None where the function does not take it.

        FunctionFailed if the function raises anything that is not an error of Twofold, or returns no events.
        """
        arguments: dict[str, Any] = {} if self._context is None else {self._context: context}
        for parameter, folds in zip(self.parameters, boundary.by_parameter, strict=True):
            if parameter.many:
                key = parameter.key
                arguments[parameter.name] = {key(fold.tags[0].partition(":")[2]): states[fold] for fold in folds}
            else:
                arguments[parameter.name] = states[folds[0]] if folds else None
        try:
            result = self.function(command, **arguments)
        except TwofoldError:
            raise
        except BaseException as error:
            raise failed(self._label, error) from error
        if result is None:
            return ()
        events = tuple(cast("list[object]", result)) if isinstance(result, list) else (result,)
        for event in events:
            if type(event) not in self._names:
                raise FunctionFailed(
                    self._label,
                    f"returned {type(event).__name__}, but a decision returns listed events, a list of them, or None",
                    f"{event!r:.100}",
                )
        return events

    def _parameter(self, name: str, hint: object, models: Mapping[type, BoundModel]) -> _ModelParameter:
        read = read_hint(hint)
        if isinstance(read, MappingHint) and read.cls is dict:
            key, state = read.key, read.value
            tag = tag_of(key)
            model = self._model(name, state, models)
            if tag is None or model.kinds != (tag.kind,):
                raise WiringError(
                    f"{self.name}: parameter '{name}' is a dict of {state.__name__}. Its key must be the tag type the "
                    f"model is folded by ({', '.join(model.kinds) or 'it has none'})."
                )
            self._need_tags(model)
            return _ModelParameter(name, model, many=True, key=id_reader(key))
        members = without_none(hint)
        optional = len(members) < len(union_members(hint))
        if len(members) != 1:
            raise WiringError(
                f"{self.name}: parameter '{name}' must be one listed model, `Model | None`, or `dict[<tag type>, "
                f"Model]`, not {hint}."
            )
        (hint,) = members
        model = self._model(name, hint, models)
        self._need_tags(model)
        for kind in model.kinds:
            if not self._reader.is_single(kind):
                raise WiringError(
                    f"{self.name}: {self.command.__name__} carries several ids of kind '{kind}', so parameter "
                    f"'{name}' cannot be one {model.state.__name__}. Take dict[<the tag type>, "
                    f"{model.state.__name__}]."
                )
            if self._reader.is_optional(kind) and not optional:
                raise WiringError(
                    f"{self.name}: the '{kind}' id of {self.command.__name__} may be None, so parameter '{name}' must "
                    f"be `{model.state.__name__} | None`."
                )
        return _ModelParameter(name, model, many=False)

    def _model(self, name: str, state: Any, models: Mapping[type, BoundModel]) -> BoundModel:
        if state not in models:
            shown = getattr(state, "__name__", state)
            raise WiringError(
                f"{self.name} asks for {shown} (parameter '{name}'), which no module lists. "
                f"Add DecisionModel({shown}, by=…) to `models=[…]`."
            )
        return models[state]

    def _need_tags(self, model: BoundModel) -> None:
        for kind in model.kinds:
            if kind not in self._reader.kinds:
                raise WiringError(
                    f"{self.name} needs {model.state.__name__}, which is folded by the tag '{kind}', but the command "
                    f"{self.command.__name__} does not carry it. Give it a field whose type is tagged Tag('{kind}')."
                )

    def _check_returns(self, hint: object, annotated: bool, names: Mapping[type, str]) -> None:
        if not annotated:
            raise WiringError(f"{self.name}: annotate what it returns: a listed event, a list of them, or None.")
        for event in returned_events(hint):
            if event not in names:
                shown = event.__name__ if inspect.isclass(event) else event
                raise WiringError(
                    f"{self.name} returns {shown}, which no module lists as an event. A decision returns one "
                    f"listed event, a list of them, or None; add {shown} to `events=[…]` if it is one."
                )


def returned_events(hint: object) -> tuple[Any, ...]:
    """The event types in the return hint of a decision: those of `A | list[B] | None` are A and B."""
    events: list[Any] = []
    for member in without_none(hint):
        match read_hint(member):
            case IterableHint(cls, (item,)) if cls is list:
                events.extend(without_none(item))
            case _:
                events.append(member)
    return tuple(event for event in dict.fromkeys(events) if event is not NoReturn)


def _kinds(state: type, by: object) -> tuple[str, ...]:
    types: Iterable[object] = cast("list[object]", by) if isinstance(by, list | tuple) else () if by is None else (by,)
    kinds: list[str] = []
    for tag_type in types:
        tag = tag_of(tag_type)
        if tag is None:
            raise WiringError(
                f"DecisionModel({state.__name__}, by={tag_type!r}): `by` takes a tag type such as OrderId = "
                'Annotated[str, Tag("order")].'
            )
        kinds.append(tag.kind)
    return tuple(kinds)


def _evolve_hints(evolve: Callable[..., Any], state: type) -> tuple[tuple[type, ...], bool]:
    owner = f"{state.__name__}.evolve"
    hints = hints_of(evolve, owner)
    hints.pop("return", None)
    names = list(inspect.signature(evolve).parameters)[1:]
    if not names or names[0] not in hints:
        raise WiringError(f"{owner}: annotate the event, e.g. `def evolve(self, event: OrderPlaced | OrderPaid)`.")
    if len(names) > 2 or (len(names) == 2 and hints.get(names[1]) is not RecordedEvent):
        raise WiringError(
            f"{owner}: besides the event it may take one parameter annotated RecordedEvent, nothing else."
        )
    return union_members(hints[names[0]]), len(names) == 2


def _fields_for_ids(state: type, kinds: tuple[str, ...]) -> dict[str, tuple[str, Callable[[str], Any]]]:
    """The fields of a state for its ids: the kind of tag of each, and the function from the tag's text to the value."""
    fields: dict[str, tuple[str, Callable[[str], Any]]] = {}
    for name, hint in hints_of(state, state.__name__).items():
        tag = tag_of(hint)
        if tag is not None and tag.kind in kinds:
            fields[name] = tag.kind, id_reader(hint)
    return fields
