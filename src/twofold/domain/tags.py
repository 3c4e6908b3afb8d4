"""In charge of tags: what a message is about, read off its type hints."""

import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypeGuard, get_args, get_origin

import msgspec

from twofold.errors import InvalidMessage, WiringError

MAX_TAG_VALUE = 256
_KIND_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_ABSENT = (type(None), msgspec.UnsetType)
_NO_ID = (bytes, bytearray, list, tuple, set, frozenset, Mapping)


class Tag:
    """Marks a field type as naming one thing that rules are about: `OrderId = Annotated[str, Tag("order")]`.

    A message with a field of that type carries the tag `order:<value>`. `kind` is lower case words joined by hyphens,
    so the first colon of a stored tag always separates kind from value.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        if not kind or not kind[0].isalpha() or not set(kind) <= _KIND_LETTERS:
            raise WiringError(f"Tag({kind!r}): a tag kind is lower case letters, digits, hyphens, e.g. Tag('order').")
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
    again: type | None = None
    """Not a tag, but the place where this record type contains itself once more."""


class TagReader:
    """Reads the tags of one message type. Built once per type at start."""

    def __init__(self, message: type) -> None:
        self.fields = tuple(_fields_of(message, {}, "", (message,)))
        self.kinds = frozenset(field.kind for field in self.fields)
        # Most messages name each thing once, in a field of their own: those are read without looking around.
        self._sole = {f.kind: f.path for f in self.fields if self.is_single(f.kind) and _is_plain(f)}
        self._all_sole = len(self._sole) == len(self.fields)

    def tags(self, message: object) -> tuple[str, ...]:
        """All tags of `message`, sorted, each once. InvalidMessage where a value cannot be a tag."""
        if self._all_sole:
            sole = self._sole.items()
            return tuple(sorted([f"{kind}:{tag_value(getattr(message, name), name)}" for kind, name in sole]))
        found = {f"{f.kind}:{tag_value(value, f.path)}" for f in self.fields for value in f.read(message)}
        return tuple(sorted(found))

    def values(self, message: object, kind: str) -> tuple[str, ...]:
        """The values of one kind of tag in `message`, in order of appearance, each once."""
        sole = self._sole.get(kind)
        if sole is not None:
            return (tag_value(getattr(message, sole), sole),)
        return tuple(
            dict.fromkeys(tag_value(v, f.path) for f in self.fields if f.kind == kind for v in f.read(message))
        )

    def sole(self, kind: str) -> str | None:
        """The name of the one field of this kind, where it is a plain one of the message itself; None elsewhere."""
        return self._sole.get(kind)

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
        inner, *extras = get_args(annotation)
        return next((extra for extra in extras if isinstance(extra, Tag)), None) or tag_of(inner)
    if is_union(annotation):
        return next(filter(None, map(tag_of, get_args(annotation))), None)
    return None


def tag_value(value: object, path: str) -> str:
    """`value` as the text of a tag. InvalidMessage, naming the field, where it is empty, too long or unprintable."""
    if type(value) is str and 0 < len(value) <= MAX_TAG_VALUE and value.isprintable():
        return value
    if isinstance(value, Enum):
        value = value.value
    text = value if type(value) is str else str(value)
    if not text:
        raise InvalidMessage(f"{path} names a thing and must not be empty.", field=path)
    if len(text) > MAX_TAG_VALUE:
        raise InvalidMessage(f"{path} may have at most {MAX_TAG_VALUE} characters.", field=path)
    if not text.isprintable():
        raise InvalidMessage(f"{path} names a thing and must not contain control characters.", field=path)
    return text


def id_reader(annotation: object) -> Callable[[str], Any]:
    """What turns the text of a tag back into the type it was read from (`Annotated[int, Tag("seat")]`: an int)."""
    (kind, *_) = [arm for arm in _arms(_bare(annotation)) if arm not in _ABSENT]
    if kind is str:
        return str
    return lambda text: msgspec.convert(text, kind, strict=False)


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


def unalias(annotation: object) -> object:
    """The type behind a `type X = ...` alias (PEP 695), a NewType or NotRequired, where there is one."""
    found: Any = annotation
    while True:
        if type(found).__name__ == "TypeAliasType":
            found = found.__value__
        elif isinstance(found, typing.NewType):
            found = found.__supertype__
        elif get_origin(found) in (typing.Required, typing.NotRequired):
            (found,) = get_args(found)
        else:
            return found


def is_union(annotation: object) -> bool:
    """Whether a hint is `A | B` in either spelling."""
    return get_origin(annotation) in (typing.Union, types.UnionType)


def is_record(annotation: Any) -> TypeGuard[type]:
    """Whether a hint is a msgspec Struct or a dataclass."""
    return inspect.isclass(annotation) and (issubclass(annotation, msgspec.Struct) or is_dataclass(annotation))


_Seen = tuple[object, ...]
_Read = Callable[[Any], Iterable[object]]


def _fields_of(record: type, arguments: Mapping[Any, object], path: str, seen: _Seen) -> Iterator[TagField]:
    """The tag fields of a record type, each read from an instance. `arguments` stand for its type variables."""
    found: list[TagField] = []
    for name, hint in hints_of(record, record.__qualname__).items():
        if get_origin(hint) is typing.ClassVar:
            continue
        inner = f"{path}.{name}" if path else name
        for field in _fields_in(_applied(hint, arguments), inner, seen):
            found.append(_in_key(field, record, name) if typing.is_typeddict(record) else _in_attribute(field, name))
    again = [field.path for field in found if field.again is record]
    found = [field for field in found if field.again is not record]
    if again and any(field.again is None for field in found):
        raise WiringError(
            f"{record.__qualname__} carries tags and contains itself at '{again[0]}', so no one can say how many ids "
            "it has. Move the ids out of the part that repeats."
        )
    yield from found


def _fields_in(annotation: object, path: str, seen: _Seen) -> Iterator[TagField]:
    annotation = unalias(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _fields_in_annotated(annotation, path, seen)
    elif is_union(annotation):
        yield from _fields_in_union(annotation, path, seen)
    elif _is_fixed_tuple(annotation):
        for index, argument in enumerate(get_args(annotation)):
            for field in _fields_in(argument, f"{path}[{index}]", seen):
                yield field._replace(read=_through(operator.itemgetter(index), field.read))
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        key, value = get_args(annotation)
        for field in _fields_in(key, f"{path}[]", seen):
            yield field._replace(many=True, read=_through_items(field.read))
        for field in _fields_in(value, f"{path}[]", seen):
            yield field._replace(many=True, read=_through_values(field.read))
    elif has_fields(origin or annotation):
        record: Any = origin or annotation
        if annotation in seen:
            yield TagField("", path, many=True, optional=True, read=_nothing, again=record)
        else:
            arguments = dict(zip(getattr(record, "__parameters__", ()), get_args(annotation), strict=False))
            yield from _fields_of(record, arguments, path, (*seen, annotation))
    elif inspect.isclass(origin) and issubclass(origin, Iterable):
        for argument in dict.fromkeys(get_args(annotation)):
            for field in _fields_in(argument, f"{path}[]", seen):
                yield field._replace(many=True, read=_through_items(field.read))


def _fields_in_annotated(annotation: object, path: str, seen: _Seen) -> Iterator[TagField]:
    inner, *extras = get_args(annotation)
    tag = next((extra for extra in extras if isinstance(extra, Tag)), None)
    if tag is None:
        yield from _fields_in(inner, path, seen)
        return
    for arm in _arms(_bare(inner)):
        if has_fields(arm) or (inspect.isclass(cls := get_origin(arm) or arm) and issubclass(cls, _NO_ID)):
            raise WiringError(
                f"{path}: {tag} marks {arm}, which is not one id. Tag the id inside it, e.g. list[Annotated[str, "
                f"{tag}]]."
            )
    optional = any(arm in _ABSENT for arm in _arms(_bare(inner)))
    yield TagField(tag.kind, path, many=False, optional=optional, read=_if_present if optional else _itself)


def _fields_in_union(annotation: object, path: str, seen: _Seen) -> Iterator[TagField]:
    arms = _arms(annotation)
    for arm in arms:
        for field in _fields_in(arm, path, seen):
            # One of several arms is there only sometimes, as one beside None is.
            yield field._replace(optional=True, read=_when(_guard(arm), field.read) if len(arms) > 1 else field.read)


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


def _arms(annotation: object) -> tuple[Any, ...]:
    annotation = unalias(annotation)
    if is_union(annotation):
        return tuple(arm for each in get_args(annotation) for arm in _arms(each))
    return (annotation,)


def _bare(annotation: object) -> Any:
    annotation = unalias(annotation)
    while get_origin(annotation) is Annotated:
        annotation = unalias(get_args(annotation)[0])
    return annotation


def _applied(hint: Any, arguments: Mapping[Any, object]) -> Any:
    """A hint with the arguments of its generic record in place of the type variables."""
    if type(hint) is typing.TypeVar:
        return arguments.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(arguments.get(each, each) for each in parameters)] if arguments and parameters else hint


def _is_fixed_tuple(annotation: object) -> bool:
    return get_origin(annotation) is tuple and ... not in get_args(annotation)


def _guard(arm: object) -> Callable[[Any], bool]:
    """Tells at run time whether a value of a union is of this arm."""
    bare = _bare(arm)
    kind = get_origin(bare) or bare
    if typing.is_typeddict(kind):
        kind = dict
    if not inspect.isclass(kind):
        return lambda value: type(value) not in _ABSENT
    if issubclass(kind, str | bytes):
        return lambda value: isinstance(value, kind)
    return lambda value: isinstance(value, kind) and not isinstance(value, str | bytes)


def _is_plain(field: TagField) -> bool:
    return not field.many and not field.optional and field.again is None and field.path.isidentifier()


def _itself(value: Any) -> Iterable[object]:
    return (value,)


def _if_present(value: Any) -> Iterable[object]:
    return () if type(value) in _ABSENT else (value,)


def _nothing(_: Any) -> Iterable[object]:
    return ()


def _in_attribute(field: TagField, name: str) -> TagField:
    return field._replace(read=_through(operator.attrgetter(name), field.read))


def _in_key(field: TagField, record: Any, name: str) -> TagField:
    read = _through(operator.itemgetter(name), field.read)
    if name in record.__required_keys__:
        return field._replace(read=read)
    return field._replace(optional=True, read=_when(lambda value: name in value, read))


def _through(reach: Callable[[Any], Any], read: _Read) -> _Read:
    if read is _itself:
        return lambda value: (reach(value),)
    return lambda value: read(reach(value))


def _through_items(read: _Read) -> _Read:
    return lambda value: (found for item in value for found in read(item))


def _through_values(read: _Read) -> _Read:
    return lambda value: (found for item in value.values() for found in read(item))


def _when(guard: Callable[[Any], bool], read: _Read) -> _Read:
    return lambda value: read(value) if guard(value) else ()
