"""In charge of what a look at stored rows proves: for which positions of the log a row is known to be the state."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.domain.projection import MAX_KEY
from twofold.errors import UnknownMessage, WiringError
from twofold.operations.row_equality import normalised, rows_equal
from twofold.read_store.port import Checkpoint, RawRow, ReadModel, ReadStore
from twofold.write_store.port import WriteStore

_NEAR = 4
_LAST = "\U0010ffff"


class Field(msgspec.Struct, frozen=True):
    """A field that differs: its value on either side, left out where that side has no such field."""

    before: Any | msgspec.UnsetType = msgspec.UNSET
    after: Any | msgspec.UnsetType = msgspec.UNSET


class Difference(msgspec.Struct, frozen=True):
    """One key whose rows differ: where each was changed last (None: there is no row), and the fields that differ.

    `error` says what is wrong with a row that is damaged, and why no row can be made, where that is so.
    """

    key: str
    before: Position | None
    after: Position | None
    fields: dict[str, Field]
    error: str | None = None


class Seen(NamedTuple):
    """What one look has shown of a key. `row` None: there was none.

    A row that was changed last at `position` is the state of its key at every position from `first` to `last`. No row,
    and one that does not say where it was changed (None), is so at one of them at least. `parked`: the key is set
    aside, so that its row says nothing of later positions. `corruption` is a sentence about a row that is not
    as it was written: it is there, though `row` may be None, and it is the state of its key at no position.
    """

    row: Any | None
    position: Position | None
    first: Position
    last: Position
    parked: bool = False
    corruption: str = ""

    @property
    def there(self) -> bool:
        """Whether there is a row at all."""
        return self.row is not None or bool(self.corruption)


class Page(NamedTuple):
    """Rows in the order of their keys, and the key up to which none is missing; None where these are the last ones."""

    rows: dict[str, Seen]
    upto: str | None


class Look:
    """Looks at the rows of one generation, on any store, while they are followed for.

    A row that was last changed at p, read after its checkpoint had come to c, is the state from p to c: events between
    would be in it. No row is the state somewhere between c and the head read afterwards: where a store writes rows
    before checkpoints, a row may be deleted ahead of them. `still` says that nobody writes there. Where the `model` is
    known, rows are held against their type, and against all that finds read.
    """

    def __init__(
        self,
        write_store: WriteStore,
        read_store: ReadStore,
        name: str,
        generation: int,
        *,
        model: ReadModel | None = None,
        still: bool = False,
    ) -> None:
        self.name = name
        self.generation = generation
        self._write_store = write_store
        self._read_store = read_store
        self._model = model
        self._still = still
        self._at: list[Checkpoint] = []
        self._head: Position = 0
        self._parked: set[str] = set()

    async def checkpoint(self) -> Position:
        """The lowest of its checkpoints. UnknownMessage where there is no such generation."""
        at = await self._checkpoints()
        return min(each.progress.position for each in at)

    async def page(self, after: str, limit: int) -> Page:
        """At most `limit` rows behind a key."""
        await self._begin()
        found = await self._read_store.raw_rows(self.name, self.generation, after, limit)
        there = dict(found)
        if self._model is not None and (self._model.find_by or self._model.order_by):
            # The JSON alone does not say of every field what its column has to hold.
            there = await self._read_store.inspect(self._model, list(there))
        rows = self._rows(there)
        await self._end()
        return Page(rows, found[-1][0] if len(found) == limit else None)

    async def of(self, keys: Iterable[str]) -> dict[str, Seen]:
        """What there is of these keys now."""
        wanted = list(dict.fromkeys(keys))
        await self._begin()
        rows = self._rows(await self._of(wanted))
        await self._end()
        return {key: rows[key] if key in rows else self.absent(key) for key in wanted}

    def absent(self, key: str) -> Seen:
        """What the last look has shown of a key that it found no row of."""
        first = self._reached(key)
        return Seen(None, 0, first, first if self._still else max(first, self._head), key in self._parked)

    async def _begin(self) -> None:
        """Before rows are read: so they are no older than this."""
        self._at = await self._checkpoints()
        self._parked = {parked.key for at in self._at for parked in at.progress.parked}

    async def _end(self) -> None:
        """After rows are read: so they are no newer than this."""
        if not self._still:
            self._head = (await self._write_store.read(NO_EVENTS)).head

    async def _checkpoints(self) -> list[Checkpoint]:
        at = [each for each in await self._read_store.checkpoints() if (each.name, each.generation) == self._mine]
        if not at:
            raise UnknownMessage(f"There is no generation {self.generation} of '{self.name}'.", field="name")
        for each in at:
            position, stamp = each.progress.position, each.progress.log
            if position and not self._write_store.identity.holds(stamp, position):
                raise WiringError(
                    f"The read model '{self.name}' stands at position {position} of the log {stamp}, but the log is "
                    f"{self._write_store.identity.stamp}. Name the stores that belong together."
                )
        return at

    @property
    def _mine(self) -> tuple[str, int]:
        return self.name, self.generation

    def _rows(self, stored: Mapping[str, RawRow]) -> dict[str, Seen]:
        """Those that are there: some stores tell of deleted ones, too."""
        return {
            key: self._present(key, each) for key, each in stored.items() if each.row is not None or each.corruption
        }

    def _present(self, key: str, stored: RawRow) -> Seen:
        last = max(stored.position, self._reached(key))
        return Seen(stored.row, stored.position, stored.position, last, key in self._parked, stored.corruption)

    def _reached(self, key: str) -> Position:
        return next((at.progress.position for at in self._at if at.partition.holds(key)), 0)

    async def _of(self, keys: Sequence[str]) -> dict[str, RawRow]:
        if self._model is not None:
            return await self._read_store.inspect(self._model, keys)
        found = {key: await self._stored(key) for key in keys}
        return {key: each for key, each in found.items() if each is not None}

    async def _stored(self, key: str) -> RawRow | None:
        after = just_before(key)
        while True:
            found = await self._read_store.raw_rows(self.name, self.generation, after, _NEAR)
            for other, stored in found:
                if other >= key:
                    return stored if other == key else None
            if len(found) < _NEAR:
                return None
            after = found[-1][0]


def just_before(key: str) -> str:
    """A text before `key` in the order of keys, with hardly any other between them."""
    stem, code = key[:-1], ord(key[-1])
    if not code:
        return stem
    # Halves of surrogate pairs are no text of their own.
    before = stem + chr(0xD7FF if code == 0xE000 else code - 1)
    return before if len(before) >= MAX_KEY else before + _LAST


def verdict(one: Seen, other: Seen, row: type | None = None) -> Literal["same", "different", "parked"] | None:
    """How two looks at a key compare; None where they may be of different positions. `row` is the type, if known."""
    if one.parked or other.parked:
        return "parked"
    if one.corruption or other.corruption:
        return "different"
    if one.row is None and other.row is None:
        return "same"
    if not _of_one_position(one, other):
        return None
    return "same" if rows_equal(one.row, other.row, row) else "different"


def difference(key: str, before: Seen, after: Seen, row: type | None, error: str | None = None) -> Difference:
    """What differs, for people: the fields of both rows. A row that is no object is one field without a name."""
    errors = filter(None, [before.corruption, after.corruption, error])
    return Difference(
        key,
        _changed(before),
        _changed(after),
        _fields_that_differ(before.row, after.row, row),
        " ".join(errors) or None,
    )


def _changed(seen: Seen) -> Position | None:
    """Where a row was changed last; where it was looked at, if it does not say."""
    if not seen.there:
        return None
    return seen.last if seen.position is None else seen.position


def _fields_that_differ(before: Any | None, after: Any | None, row: type | None) -> dict[str, Field]:
    old, new = _fields(before), _fields(after)
    one, other = (old, new) if row is None else (_fields(normalised(before, row)), _fields(normalised(after, row)))
    return {
        name: Field(old.get(name, msgspec.UNSET), new.get(name, msgspec.UNSET))
        for name in [*old, *(name for name in new if name not in old)]
        if not (name in old and name in new and rows_equal(one[name], other[name]))
    }


def _fields(row: Any | None) -> Mapping[str, Any]:
    if row is None:
        return {}
    return cast("Mapping[str, Any]", row) if isinstance(row, dict) else {"": row}


def _of_one_position(one: Seen, other: Seen) -> bool:
    """Whether there is a position at which both are known to be the state."""
    for absent, present in ((one, other), (other, one)):
        if absent.row is None:
            return present.first <= absent.first and absent.last <= present.last
    return max(one.first, other.first) <= min(one.last, other.last)
