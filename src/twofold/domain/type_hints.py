"""Reading type hints: what a hint consists of, in whichever syntax it is written. Every walk over hints uses this.

`read_hint` takes one layer off a hint. Aliases (`type X = …`), NewType, Required and NotRequired are not layers: they
are looked through.
"""

import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, NamedTuple, TypeGuard, cast, get_args, get_origin

import msgspec

from twofold.errors import WiringError


class AnnotatedHint(NamedTuple):
    """`Annotated[inner, *extras]`."""

    inner: Any
    extras: tuple[Any, ...]


class UnionHint(NamedTuple):
    """`A | B`, in either spelling."""

    members: tuple[Any, ...]


class TupleHint(NamedTuple):
    """A tuple with one type for each place."""

    places: tuple[Any, ...]


class MappingHint(NamedTuple):
    """A dict or another mapping."""

    cls: type
    key: Any
    value: Any


class RecordHint(NamedTuple):
    """A class whose hints are the fields of its instances. `arguments` stand for its type variables."""

    cls: type
    arguments: Mapping[Any, Any]

    def fields(self) -> Iterator[tuple[str, Any]]:
        """Names and hints of its fields. WiringError where a hint cannot be read at run time."""
        for name, hint in hints_of(self.cls, self.cls.__qualname__).items():
            if get_origin(hint) is not typing.ClassVar:
                yield name, self._applied(hint)

    def _applied(self, hint: Any) -> Any:
        if type(hint) is typing.TypeVar:
            return self.arguments.get(hint, hint)
        parameters = getattr(hint, "__parameters__", ())
        if not self.arguments or not parameters:
            return hint
        return hint[tuple(self.arguments.get(parameter, parameter) for parameter in parameters)]


class IterableHint(NamedTuple):
    """A list, a set, or another collection of items of some types."""

    cls: type
    items: tuple[Any, ...]


class PlainHint(NamedTuple):
    """Anything else: a class, a Literal, Any."""

    type: Any


Hint = AnnotatedHint | UnionHint | TupleHint | MappingHint | RecordHint | IterableHint | PlainHint


def read_hint(hint: object) -> Hint:
    """The outermost layer of a hint."""
    hint = without_alias(hint)
    origin: Any = get_origin(hint)
    arguments, cls = get_args(hint), cast("Any", origin or hint)
    if origin is Annotated:
        return AnnotatedHint(arguments[0], arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return UnionHint(arguments)
    if origin is tuple and ... not in arguments:
        return TupleHint(arguments)
    if inspect.isclass(origin) and issubclass(origin, Mapping) and len(arguments) == 2:
        return MappingHint(origin, *arguments)
    if has_fields(cls):
        return RecordHint(cls, dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False)))
    if inspect.isclass(cast("Any", origin)) and issubclass(origin, Iterable):
        return IterableHint(origin, tuple(dict.fromkeys(arguments)))
    return PlainHint(hint)


def union_members(hint: object) -> tuple[Any, ...]:
    """The members of a union, nested ones too; the hint itself where it is no union. Members may be Annotated."""
    match read_hint(hint):
        case UnionHint(members):
            return tuple(member for part in members for member in union_members(part))
        case _:
            return (without_alias(hint),)


def without_none(hint: object) -> tuple[Any, ...]:
    """The members of a union, or the one type a hint names, without None."""
    return tuple(member for member in union_members(hint) if member is not type(None) and member is not None)


def bare_types(hint: object) -> tuple[Any, ...]:
    """The members of a union without what they are annotated with."""
    match read_hint(hint):
        case AnnotatedHint(inner):
            return bare_types(inner)
        case UnionHint(members):
            return tuple(bare for member in members for bare in bare_types(member))
        case _:
            return (without_alias(hint),)


def without_alias(hint: object) -> Any:
    """The type behind a `type X = ...` alias (PEP 695), a NewType, Required or NotRequired, where there is one."""
    inner: Any = hint
    while True:
        if type(inner).__name__ == "TypeAliasType":
            inner = inner.__value__
        elif isinstance(inner, typing.NewType):
            inner = inner.__supertype__
        elif get_origin(inner) in (typing.Required, typing.NotRequired):
            (inner,) = get_args(inner)
        else:
            return inner


def hints_of(thing: Any, owner: str) -> dict[str, Any]:
    """The resolved type hints of a class or function. WiringError where a hint cannot be read at run time."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except NameError as error:
        raise WiringError(
            f"{owner}: the type hint {error.name!r} cannot be read at run time. Define it at module level, and do not "
            "import it under TYPE_CHECKING."
        ) from error
    except (AttributeError, TypeError) as error:
        raise WiringError(
            f"{owner}: its type hints cannot be read ({error}). List a plain function or class with hints at module "
            f"level."
        ) from error


def is_record(annotation: Any) -> TypeGuard[type]:
    """Whether a hint is a msgspec Struct or a dataclass."""
    return inspect.isclass(annotation) and (issubclass(annotation, msgspec.Struct) or is_dataclass(annotation))


def is_frozen(record: Any) -> bool:
    """Whether a Struct or dataclass says that its instances cannot be changed."""
    if issubclass(record, msgspec.Struct):
        return bool(record.__struct_config__.frozen)
    return bool(record.__dataclass_params__.frozen)


def has_fields(annotation: Any) -> TypeGuard[type]:
    """Whether a hint is a class whose hints are the fields of its instances."""
    if is_record(annotation) or typing.is_typeddict(annotation):
        return True
    return inspect.isclass(annotation) and tuple in annotation.__mro__ and hasattr(annotation, "_fields")
