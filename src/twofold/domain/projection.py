"""Projections: folds from events into the rows of a read model, by key."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, cast, get_args

import msgspec

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import RecordedEvent
from twofold.domain.tags import TagReader, id_reader, tag_of
from twofold.domain.type_hints import hints_of, is_record, union_members, without_none
from twofold.errors import WiringError

MAX_KEY = 1024
MAX_PARTITIONS = 256

Lifecycle = Literal["async", "inline", "live"]
Parks = Literal["key", "partition"]


class Projection:
    """Lists a fold from events into the rows of one read model.

    `fold(row | None, event) -> row | None` is pure; None deletes the row. `key` is the tag type whose values in the
    event are the keys of the rows it changes, or a pure function from the event to a key or a list of keys. A third
    parameter of the fold receives the key of the row; a parameter annotated RecordedEvent receives time, actor and
    position.
    `find_by` lists the fields (or tuples of fields) that queries filter by, `order_by` those they sort by. Raise
    `version` when the fold changes: the read model is then rebuilt from the first event.

    `lifecycle` says when rows are made. "async": soon after the event, by followers. "inline": in the transaction of
    the event; the rows are stored with the log and read by key. "live": when they are read, folded from the log, never
    stored. `freshness` is the objective in seconds: a follower that is further behind is reported. `partitions` is the
    number of partitions of a new build; each has its own follower, on any node. `parks` says what waits behind an event
    that cannot be folded: its "key", or all keys of its "partition".
    """

    def __init__(
        self,
        name: str,
        fold: Callable[..., Any],
        *,
        key: object,
        find_by: Sequence[str | tuple[str, ...]] = (),
        order_by: Sequence[str] = (),
        version: int = 1,
        lifecycle: Lifecycle = "async",
        freshness: float | None = None,
        partitions: int = 1,
        parks: Parks = "key",
    ) -> None:
        self.name = name
        self.fold = fold
        self.key = key
        self.find_by = tuple((f,) if isinstance(f, str) else tuple(f) for f in find_by)
        self.order_by = tuple(order_by)
        self.version = version
        self.lifecycle: Lifecycle = lifecycle
        self.freshness = freshness
        self.partitions = partitions
        self.parks: Parks = parks


class BoundProjection:
    """A projection with its event types, row type and keys resolved; made once at start."""

    def __init__(self, projection: Projection, names: Mapping[type, str], readers: Mapping[type, TagReader]) -> None:
        self.name = projection.name
        self.version = projection.version
        self.find_by = projection.find_by
        self.order_by = projection.order_by
        self.lifecycle = projection.lifecycle
        self.freshness = projection.freshness
        self.partitions = projection.partitions
        self.parks = projection.parks
        self.label = f"Projection({projection.name!r}, {getattr(projection.fold, '__name__', projection.fold)})"
        self._readers = readers
        self._key_kind = self._kind_of(projection.key)
        self._key_function = None if self._key_kind else cast("Callable[[Any], Any]", projection.key)
        self.row, self.events = self._read_fold(projection)
        self.fold = _folding(projection.fold, self._extras, self.row, self.label)
        """(row, event, key, recorded) → the row after one more event; None where it is deleted. `recorded` may be None
        for an inline projection."""
        self._check_events(names)
        self.sole_key = self._sole_key()
        """By event type the field with its one key, for types that have just one. `keys` works for all types."""
        self.types = tuple(names[event] for event in self.events)
        self._check_fields()
        self._check_running()

    def events_of(self, key: str) -> EventQuery:
        """Selects the events that can change the row of a key, and as few others as possible."""
        tags = () if self._key_kind is None else (f"{self._key_kind}:{key}",)
        return EventQuery((QueryItem(self.types, tags),))

    def keys(self, event: object) -> tuple[str, ...]:
        """The keys of the rows that `event` changes, each once."""
        if self._key_kind is not None:
            return self._readers[type(event)].values(event, self._key_kind)
        assert self._key_function is not None
        result = self._key_function(event)
        several = isinstance(result, list | tuple | set | frozenset)
        keys = cast("Iterable[object]", result) if several else () if result is None else (result,)
        return tuple(dict.fromkeys(row_key(key, self.label) for key in keys))

    def stored_keys(self, recorded: RecordedEvent) -> tuple[str, ...]:
        """The keys of an event by its stored tags, for one that cannot be read. None of them if `key` is a function."""
        if self._key_kind is None:
            return ()
        start = f"{self._key_kind}:"
        return tuple(tag[len(start) :] for tag in recorded.tags if tag.startswith(start))

    def _sole_key(self) -> dict[type, str]:
        kind = self._key_kind
        fields = {} if kind is None else {event: self._readers[event].sole(kind) for event in self.events}
        return {event: name for event, name in fields.items() if name is not None}

    def _kind_of(self, key: object) -> str | None:
        tag = tag_of(key)
        if tag is None and not callable(key):
            raise WiringError(f"{self.label}: `key` takes a tag type or a function from the event to its keys.")
        return None if tag is None else tag.kind

    def _read_fold(self, projection: Projection) -> tuple[type, tuple[type, ...]]:
        if inspect.iscoroutinefunction(projection.fold):
            raise WiringError(f"{self.label}: the fold is async, but a fold is pure. Write it without `async`.")
        hints = hints_of(projection.fold, self.label)
        names = list(inspect.signature(projection.fold).parameters)
        if len(names) < 2 or names[0] not in hints or names[1] not in hints:
            raise WiringError(
                f"{self.label}: annotate the fold, e.g. `def fold(row: Row | None, event: A | B) -> Row | None`."
            )
        rows = without_none(hints[names[0]])
        if len(rows) != 1 or not is_record(rows[0]) or rows == union_members(hints[names[0]]):
            raise WiringError(
                f"{self.label}: the first parameter is the row or None: `row: Row | None`, Row a Struct or dataclass."
            )
        self._extras = tuple(self._extra(name, hints.get(name)) for name in names[2:])
        return rows[0], union_members(hints[names[1]])

    def _extra(self, name: str, hint: object) -> Callable[[str], Any] | None:
        """The function from a row's key to one more argument of the fold; None where it is the recorded event."""
        if hint is RecordedEvent:
            return None
        tag = tag_of(hint)
        if self._key_kind is not None and (tag is None or tag.kind != self._key_kind):
            raise WiringError(
                f"{self.label}: parameter '{name}' must be RecordedEvent, or the key's own type, tagged "
                f"Tag('{self._key_kind}')."
            )
        return str if tag is None else id_reader(hint)

    def _check_events(self, names: Mapping[type, str]) -> None:
        for event in self.events:
            shown = getattr(event, "__name__", event)
            if event not in names:
                raise WiringError(f"{self.label} reads {shown}, which no module lists. Add {shown} to `events=[…]`.")
            if self._key_kind is not None and self._key_kind not in self._readers[event].kinds:
                raise WiringError(
                    f"{self.label} is keyed by the tag '{self._key_kind}', but {shown} does not carry it. Give "
                    f"{shown} a field whose type is tagged Tag('{self._key_kind}'), or give `key` a function."
                )

    def _check_running(self) -> None:
        if self.lifecycle not in get_args(Lifecycle) or self.parks not in get_args(Parks):
            raise WiringError(
                f"{self.label}: `lifecycle` is one of {', '.join(get_args(Lifecycle))}, `parks` one of "
                f"{', '.join(get_args(Parks))}."
            )
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise WiringError(f"{self.label}: `partitions` is 1 to {MAX_PARTITIONS}, not {self.partitions}.")
        if self.freshness is not None and not self.freshness > 0:
            raise WiringError(f"{self.label}: `freshness` is seconds above 0, not {self.freshness}.")
        if self.lifecycle != "async":
            self._check_options_of_followers(self.lifecycle)

    def _check_options_of_followers(self, lifecycle: str) -> None:
        """Options that need a follower cannot be used without one."""
        for name, fields in (("find_by", self.find_by), ("order_by", self.order_by)):
            if fields:
                raise WiringError(
                    f"{self.label}: `{name}` of a projection that is {lifecycle}: its rows are read by key only. Ask "
                    "by key, or make it lifecycle='async'."
                )
        for name, said, none in (
            ("partitions", self.partitions, 1),
            ("parks", self.parks, "key"),
            ("freshness", self.freshness, None),
        ):
            if said != none:
                raise WiringError(
                    f"{self.label}: `{name}` of a projection that is {lifecycle}: it has no follower, so it is never "
                    "behind. Leave it out, or make it lifecycle='async'."
                )
        if lifecycle == "live" and self._key_kind is None:
            raise WiringError(
                f"{self.label} is live, but its key is a function: every event of its types would have to be read for "
                "each row. Let `key` be a tag type, or make it lifecycle='async'."
            )
        if lifecycle == "inline" and None in self._extras:
            raise WiringError(
                f"{self.label} is inline, but its fold takes a RecordedEvent: rows are folded before the event has a "
                "position. Put what it needs into the event, or make it lifecycle='async'."
            )

    def _check_fields(self) -> None:
        hints = hints_of(self.row, self.row.__name__)
        for field in {f for group in self.find_by for f in group} | set(self.order_by):
            if field not in hints:
                raise WiringError(
                    f"{self.label}: {self.row.__name__} has no field '{field}' to find or order by. "
                    f"It has: {', '.join(hints)}."
                )


def _folding(
    fold: Callable[..., Any], extras: Sequence[Callable[[str], Any] | None], row: type, label: str
) -> Callable[[Any, object, str, RecordedEvent | None], Any]:
    """A fold whose rows are encoded and decoded once, so that they are as every later reader gets them.

    If not, the next fold could see another row in a cache than after it was stored (5 instead of 5.0 in a float field),
    and a row that does not fit its type would be stored and could not be read again. Here it raises for the event that
    made it.
    """
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder[Any](row).decode

    def as_read(after: Any) -> Any:
        try:
            return None if after is None else decode(encode(after))
        except Exception as error:
            raise TypeError(
                f"{label}: the fold returned {after!r:.100}, which cannot be read back as {row.__name__} ({error})"
            ) from error

    def plain(before: Any, event: object, key: str, recorded: RecordedEvent | None) -> Any:
        return as_read(fold(before, event))

    def whole(before: Any, event: object, key: str, recorded: RecordedEvent | None) -> Any:
        return as_read(fold(before, event, *[recorded if read is None else read(key) for read in extras]))

    return whole if extras else plain


def row_key(value: object, label: str) -> str:
    """A key as text. ValueError where it is empty, too long or not a single value."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or is_record(type(value)) or (isinstance(value, Iterable) and not isinstance(value, str)):
        raise ValueError(f"{label}: `key` returned {value!r}; return one key, or a list, tuple or set of keys.")
    text = value if isinstance(value, str) else str(value)
    if not text or len(text) > MAX_KEY:
        raise ValueError(f"{label}: a row key must have 1 to {MAX_KEY} characters, not {len(text)}.")
    return text
