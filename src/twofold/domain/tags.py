"""In charge of tags: what a message is about, read off its type hints."""

import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec

from twofold.errors import InvalidMessage, WiringError

MAX_TAG_VALUE = 256
_KIND_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_COLLECTIONS = (list, tuple, set, frozenset, Sequence, Set, Iterable)


class Tag:
    """Marks a field type as naming one thing that rules are about: `OrderId = Annotated[str, Tag("order")]`.

    A message with a field of that type carries the tag `order:<value>`. `kind` is lower case words joined by hyphens,
    so the first colon of a stored tag always separates kind from value.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        if not kind or not kind[0].isalpha() or not set(kind) <= _KIND_LETTERS:
            raise WiringError(f"Tag({kind!r}): a tag kind is lower case letters, digits and hyphens, e.g. Tag('order').")
        self.kind = kind

    def __repr__(self) -> str:
        return f"Tag({self.kind!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tag) and other.kind == self.kind

    def __hash__(self) -> int:
        return hash((Tag, self.kind))


class TagField(NamedTuple):
    """One place of a message type that carries tags of one kind."""

    kind: str
    path: str
    many: bool
    optional: bool
    read: Callable[[Any], Iterable[object]]


class TagReader:
    """Reads the tags of one message type. Built once per type at start."""

    def __init__(self, message: type) -> None:
        self.fields = tuple(_fields_of(message, "", (message,)))
        self.kinds = frozenset(field.kind for field in self.fields)

    def tags(self, message: object) -> tuple[str, ...]:
        """All tags of `message`, sorted, each once. InvalidMessage where a value cannot be a tag."""
        found = {f"{f.kind}:{tag_value(value, f.path)}" for f in self.fields for value in f.read(message)}
        return tuple(sorted(found))

    def values(self, message: object, kind: str) -> tuple[str, ...]:
        """The values of one kind of tag in `message`, in order of appearance, each once."""
        return tuple(
            dict.fromkeys(tag_value(v, f.path) for f in self.fields if f.kind == kind for v in f.read(message))
        )

    def is_single(self, kind: str) -> bool:
        """Whether a message of this type carries at most one value of this kind."""
        of_kind = [field for field in self.fields if field.kind == kind]
        return len(of_kind) == 1 and not of_kind[0].many

    def is_optional(self, kind: str) -> bool:
        """Whether the one field of this kind may be None."""
        return all(field.optional for field in self.fields if field.kind == kind)


def tag_of(annotation: object) -> Tag | None:
    """The tag a field type carries (`OrderId`, also `OrderId | None`), or None."""
    annotation = unalias(annotation)
    if get_origin(annotation) is Annotated:
        return next((m for m in get_args(annotation)[1:] if isinstance(m, Tag)), None)
    if is_union(annotation):
        return next(filter(None, map(tag_of, get_args(annotation))), None)
    return None


def tag_value(value: object, path: str) -> str:
    """`value` as the text of a tag. InvalidMessage, naming the field, where it is empty, too long or unprintable."""
    text = value if type(value) is str else str(value)
    if not text:
        raise InvalidMessage(f"{path} names a thing and must not be empty.", field=path)
    if len(text) > MAX_TAG_VALUE:
        raise InvalidMessage(f"{path} may have at most {MAX_TAG_VALUE} characters.", field=path)
    if not text.isprintable():
        raise InvalidMessage(f"{path} names a thing and must not contain control characters.", field=path)
    return text


def hints_of(thing: Any, owner: str) -> dict[str, Any]:
    """The resolved type hints of a class or function. WiringError where a hint cannot be read at run time."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except NameError as error:
        raise WiringError(
            f"{owner}: the type hint {error.name!r} cannot be read at run time. Define it at module level, and do not "
            "import it under TYPE_CHECKING."
        ) from error


def unalias(annotation: object) -> object:
    """The type behind a `type X = ...` alias (PEP 695), where there is one."""
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__  # type: ignore[attr-defined]
    return annotation


def is_union(annotation: object) -> bool:
    """Whether a hint is `A | B` in either spelling."""
    return get_origin(annotation) in (typing.Union, types.UnionType)


def is_record(annotation: object) -> bool:
    """Whether a hint is a msgspec Struct or a dataclass."""
    return isinstance(annotation, type) and (issubclass(annotation, msgspec.Struct) or is_dataclass(annotation))


def _fields_of(record: type, path: str, seen: tuple[type, ...]) -> Iterator[TagField]:
    for name, hint in hints_of(record, record.__qualname__).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        inner = f"{path}.{name}" if path else name
        for field in _fields_in(hint, inner, seen):
            yield field._replace(read=_through_attribute(name, field.read))


def _fields_in(annotation: object, path: str, seen: tuple[type, ...]) -> Iterator[TagField]:
    annotation = unalias(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        tag = tag_of(annotation)
        if tag is not None:
            yield TagField(tag.kind, path, many=False, optional=False, read=_itself)
        else:
            yield from _fields_in(get_args(annotation)[0], path, seen)
    elif is_union(annotation):
        yield from _fields_in_union(annotation, path, seen)
    elif origin in _COLLECTIONS:
        for argument in dict.fromkeys(get_args(annotation)):
            for field in _fields_in(argument, f"{path}[]", seen):
                yield field._replace(many=True, read=_through_items(field.read))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = get_args(annotation)
        for field in _fields_in(key, f"{path}[]", seen):
            yield field._replace(many=True, read=_through_items(field.read))
        for field in _fields_in(value, f"{path}[]", seen):
            yield field._replace(many=True, read=_through_values(field.read))
    elif isinstance(annotation, type) and is_record(annotation) and annotation not in seen:
        yield from _fields_of(annotation, path, (*seen, annotation))


def _fields_in_union(annotation: object, path: str, seen: tuple[type, ...]) -> Iterator[TagField]:
    arms = [unalias(arm) for arm in get_args(annotation)]
    optional = type(None) in arms
    for arm in arms:
        for field in _fields_in(arm, path, seen):
            record = arm if isinstance(arm, type) and is_record(arm) else None
            yield field._replace(optional=optional or field.optional, read=_when_present(record, field.read))


_Read = Callable[[Any], Iterable[object]]


def _itself(value: Any) -> Iterable[object]:
    return (value,)


def _through_attribute(name: str, read: _Read) -> _Read:
    if read is _itself:
        return lambda value: (getattr(value, name),)
    return lambda value: read(getattr(value, name))


def _through_items(read: _Read) -> _Read:
    return lambda value: (found for item in value for found in read(item))


def _through_values(read: _Read) -> _Read:
    return lambda value: (found for item in value.values() for found in read(item))


def _when_present(record: type | None, read: _Read) -> _Read:
    if record is not None:
        return lambda value: read(value) if isinstance(value, record) else ()
    return lambda value: () if value is None else read(value)
