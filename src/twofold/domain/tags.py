"""Tags: what a message is about, read from its type hints."""

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, get_origin, is_typeddict

import msgspec

from twofold.domain.type_hints import (
    AnnotatedHint,
    IterableHint,
    MappingHint,
    PlainHint,
    RecordHint,
    TupleHint,
    UnionHint,
    bare_types,
    has_fields,
    read_hint,
    union_members,
)
from twofold.errors import InvalidMessage, WiringError

MAX_TAG_VALUE = 256
_KIND_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_ABSENT = (type(None), msgspec.UnsetType)
_NO_ID = (bytes, bytearray, list, tuple, set, frozenset, Mapping)


class Tag:
    """Marks a field type as the id of a thing that rules are about: `OrderId = Annotated[str, Tag("order")]`.

    A message with a field of that type carries the tag `order:<value>`. `kind` is lower case words joined by hyphens,
    so the first colon of a stored tag separates kind from value.
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
    """Set where this is not a tag but the place where this record type contains itself."""


class TagReader:
    """Reads the tags of one message type. Built once per type at start."""

    def __init__(self, message: type) -> None:
        record = RecordHint(message, {})
        self.fields = tuple(_fields_of(record, "", (record,)))
        self.kinds = frozenset(field.kind for field in self.fields)
        # Most messages have each id once, in a plain field. These are read directly.
        self._sole = {f.kind: f.path for f in self.fields if self.is_single(f.kind) and _is_plain(f)}
        self._all_sole = len(self._sole) == len(self.fields)

    def tags(self, message: object) -> tuple[str, ...]:
        """All tags of `message`, sorted, each once. InvalidMessage where a value cannot be a tag."""
        if self._all_sole:
            tags = [f"{kind}:{tag_value(getattr(message, name), name)}" for kind, name in self._sole.items()]
            tags.sort()
            return tuple(tags)
        return tuple(sorted({f"{f.kind}:{tag_value(value, f.path)}" for f in self.fields for value in f.read(message)}))

    def values(self, message: object, kind: str) -> tuple[str, ...]:
        """The values of one kind of tag in `message`, in order of appearance, each once."""
        sole = self._sole.get(kind)
        if sole is not None:
            return (tag_value(getattr(message, sole), sole),)
        return tuple(
            dict.fromkeys(tag_value(v, f.path) for f in self.fields if f.kind == kind for v in f.read(message))
        )

    def sole(self, kind: str) -> str | None:
        """The name of the one field of this kind, where it is a plain field of the message itself; else None."""
        return self._sole.get(kind)

    def is_single(self, kind: str) -> bool:
        """Whether a message of this type carries at most one value of this kind."""
        of_kind = [field for field in self.fields if field.kind == kind]
        return len(of_kind) == 1 and not of_kind[0].many

    def is_optional(self, kind: str) -> bool:
        """Whether the one field of this kind may be None."""
        return all(field.optional for field in self.fields if field.kind == kind)


def tag_of(hint: object) -> Tag | None:
    """The tag a field type carries (`OrderId`, also `OrderId | None`), or None."""
    match read_hint(hint):
        case AnnotatedHint(inner, extras):
            return _tag_in(extras) or tag_of(inner)
        case UnionHint(members):
            return next(filter(None, map(tag_of, members)), None)
        case _:
            return None


def _tag_in(extras: Iterable[object]) -> Tag | None:
    return next((extra for extra in extras if isinstance(extra, Tag)), None)


def tag_value(value: object, path: str) -> str:
    """`value` as the text of a tag. InvalidMessage, naming the field, where it is empty, too long or unprintable."""
    if type(value) is str and 0 < len(value) <= MAX_TAG_VALUE and value.isprintable():
        return value
    if isinstance(value, Enum):
        value = value.value
    text = value if type(value) is str else str(value)
    if not text:
        raise InvalidMessage(f"{path} is an id and must not be empty.", field=path)
    if len(text) > MAX_TAG_VALUE:
        raise InvalidMessage(f"{path} may have at most {MAX_TAG_VALUE} characters.", field=path)
    if not text.isprintable():
        raise InvalidMessage(f"{path} is an id and must not contain control characters.", field=path)
    return text


def id_reader(hint: object) -> Callable[[str], Any]:
    """A function that turns the text of a tag back into its type (`Annotated[int, Tag("seat")]`: an int)."""
    (kind, *_) = [bare for bare in bare_types(hint) if bare not in _ABSENT]
    if kind is str:
        return str
    return lambda text: msgspec.convert(text, kind, strict=False)


_Seen = tuple[RecordHint, ...]
_Read = Callable[[Any], Iterable[object]]


def _fields_of(record: RecordHint, path: str, seen: _Seen) -> Iterator[TagField]:
    """The tag fields of a record type, each read from an instance."""
    fields: list[TagField] = []
    cls = record.cls
    for name, hint in record.fields():
        for field in _fields_in(hint, f"{path}.{name}" if path else name, seen):
            fields.append(_in_key(field, cls, name) if is_typeddict(cls) else _in_attribute(field, name))
    again = [field.path for field in fields if field.again is cls]
    fields = [field for field in fields if field.again is not cls]
    if again and any(field.again is None for field in fields):
        raise WiringError(
            f"{cls.__qualname__} carries tags and contains itself at '{again[0]}', so the number of its ids is not "
            "known. Move the ids out of the part that repeats."
        )
    yield from fields


def _fields_in(hint: object, path: str, seen: _Seen) -> Iterator[TagField]:
    match read_hint(hint):
        case AnnotatedHint(inner, extras):
            tag = _tag_in(extras)
            yield from _fields_in(inner, path, seen) if tag is None else [_tagged(tag, inner, path)]
        case UnionHint():
            members = union_members(hint)
            for member in members:
                for field in _fields_in(member, path, seen):
                    # One of several members is there only sometimes, as one beside None is.
                    read = _when(_guard(member), field.read) if len(members) > 1 else field.read
                    yield field._replace(optional=True, read=read)
        case TupleHint(places):
            for index, place in enumerate(places):
                for field in _fields_in(place, f"{path}[{index}]", seen):
                    yield field._replace(read=_through(operator.itemgetter(index), field.read))
        case MappingHint(_, key, value):
            for field in _fields_in(key, f"{path}[]", seen):
                yield field._replace(many=True, read=_through_items(field.read))
            for field in _fields_in(value, f"{path}[]", seen):
                yield field._replace(many=True, read=_through_values(field.read))
        case RecordHint() as record if record in seen:
            yield TagField("", path, many=True, optional=True, read=_nothing, again=record.cls)
        case RecordHint() as record:
            yield from _fields_of(record, path, (*seen, record))
        case IterableHint(_, items):
            for item in items:
                for field in _fields_in(item, f"{path}[]", seen):
                    yield field._replace(many=True, read=_through_items(field.read))
        case PlainHint():
            return


def _tagged(tag: Tag, inner: object, path: str) -> TagField:
    """A field that is marked with a tag. WiringError where it is not one id."""
    members = bare_types(inner)
    for member in members:
        if has_fields(member) or (inspect.isclass(cls := get_origin(member) or member) and issubclass(cls, _NO_ID)):
            raise WiringError(
                f"{path}: {tag} marks {member}, which is not one id. Tag the id inside it, e.g. list[Annotated[str, "
                f"{tag}]]."
            )
    optional = any(member in _ABSENT for member in members)
    return TagField(tag.kind, path, many=False, optional=optional, read=_if_present if optional else _itself)


def _guard(member: object) -> Callable[[Any], bool]:
    """A function that says whether a value of a union is of this member."""
    (bare, *others) = bare_types(member)
    kind = get_origin(bare) or bare
    if is_typeddict(kind):
        kind = dict
    if others or not inspect.isclass(kind):
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
    return lambda value: (part for item in value for part in read(item))


def _through_values(read: _Read) -> _Read:
    return lambda value: (part for item in value.values() for part in read(item))


def _when(guard: Callable[[Any], bool], read: _Read) -> _Read:
    return lambda value: read(value) if guard(value) else ()
