"""In charge of looking at what the tables of one build hold of a row, in all of its places, whatever has become of it.

The row by key and each entry that a find reads have the same text and timestamp, except while a row is being saved, or
where a save was broken off, which comes again. So what disagrees is looked at again, and counts where it stays as it is
and is not ahead of the checkpoint. Entries in places that no row of the present version belongs to are not searched
for: that would be to read the whole table for each page.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from twofold.domain.events import Position
from twofold.read_store.cassandra.checkpoints import Standing
from twofold.read_store.cassandra.driver import Driver, Statement
from twofold.read_store.cassandra.finding import Entry, find_by_key
from twofold.read_store.cassandra.layout import EVERYTHING_BY_KEY, Spot, bucket_of, declared_as, table_names, text_of
from twofold.read_store.cassandra.tables import is_key, version_of
from twofold.read_store.columns import ColumnValue
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel

T = TypeVar("T")

_IN_ONE_READ = 50
_LOOKS = 5
_PAUSE = 0.3
"""Seconds between two looks: longer than a save takes, as a rule."""


class _Cell(NamedTuple):
    """A row where it was found: by key ("": it was deleted) or as an entry."""

    row: str | None
    written: int

    @property
    def version(self) -> tuple[int, int]:
        """Position and repair number."""
        return version_of(self.written)


class _Found(NamedTuple):
    """All that was found of a key: the row by key, and by access the entry in the place where that says it is."""

    by_key: _Cell | None
    entries: Mapping[str, _Cell | None]
    checkpoint: Position


class Looking:
    """Looks at one build, as `standing` says it is declared. `model` is None where it was not prepared."""

    def __init__(
        self,
        driver: Driver,
        name: str,
        generation: int,
        standing: Callable[[], Awaitable[Standing]],
        now: Standing,
        model: ReadModel | None,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        rows, finds = table_names(name, generation, now.build or "")
        self._rows, self._finds = (f"{driver.address.keyspace}.{each}" for each in (rows, finds))
        self._driver = driver
        self._standing = standing
        self._pause = pause
        self._accesses, kinds = declared_as(now.declared)
        self._reader = RawRowReader({field: (kind,) for field, kind in kinds.items()}, model)

    async def behind(self, after: str, limit: int) -> list[tuple[str, RawRow]]:
        """See `ReadStoreMaintenance.raw_rows`."""
        page = await find_by_key(self._driver, self._finds, after, limit)
        found = await self.of([each.key for each in page])
        # One that was deleted since was there when the page was read.
        return [(each.key, found[each.key] if _there(found.get(each.key)) else self._entry(each)) for each in page]

    async def of(self, keys: Sequence[str]) -> dict[str, RawRow]:
        """See `ReadStoreMaintenance.inspect`."""
        seen = await self._look([key for key in dict.fromkeys(keys) if is_key(key)])
        doubtful: set[str] = {key for key, each in seen.items() if each.corruption}
        for _ in range(_LOOKS):
            if not doubtful:
                break
            await self._pause(_PAUSE)
            again = await self._look(sorted(doubtful))
            changed = {key for key in doubtful if again.get(key) != seen[key]}
            seen = {key: each for key, each in seen.items() if key not in doubtful} | again
            doubtful = {key for key in changed if key in again and again[key].corruption}
        # What is another with each look is being saved all the time.
        moving = {key: RawRow(seen[key].row, seen[key].position, seen[key].repair) for key in doubtful}
        return seen | moving

    def _entry(self, entry: Entry) -> RawRow:
        position, repair = version_of(entry.written or 0)
        return raw_row(self._reader.read(entry.row), position, repair, {})

    async def _look(self, keys: Sequence[str]) -> dict[str, RawRow]:
        standing = await self._standing()
        by_key = await self._by_key(keys)
        spots = {key: self._spots(key, by_key.get(key)) for key in keys}
        entries = await self._entries((key, spot) for key in keys for spot in spots[key])
        judged: dict[str, RawRow] = {}
        for key in keys:
            checkpoint = next((at.position for at in standing.at if at.partition.holds(key)), 0)
            there = {spot.access: entries.get((key, spot)) for spot in spots[key]}
            stored = self._judge(_Found(by_key.get(key), there, checkpoint))
            if stored is not None:
                judged[key] = stored
        return judged

    def _judge(self, found: _Found) -> RawRow | None:
        row, entry = found.by_key, found.entries[EVERYTHING_BY_KEY]
        if entry is not None and _ahead(entry, row, found.checkpoint):
            return self._told(entry)
        cells = [cell for cell in (row, *found.entries.values()) if cell is not None]
        # Whoever repairs it has to write above all of them.
        repair = max((cell.version[1] for cell in cells), default=0)
        if row is None or not row.row:
            if entry is not None:
                more = [f"It is found under '{EVERYTHING_BY_KEY}', but there is no row of its key."]
                return self._told(entry, more, repair)
            return None if row is None else RawRow(None, *row.version)
        return self._told(row, _disagreeing(row, found.entries), repair)

    def _told(self, cell: _Cell, more: Iterable[str] = (), repair: int = 0) -> RawRow:
        position, own = cell.version
        stored = raw_row(self._reader.read(cell.row), position, max(own, repair), {})
        corruption = " ".join([*([stored.corruption] if stored.corruption else []), *more])
        return RawRow(stored.row, stored.position, stored.repair, corruption)

    def _spots(self, key: str, cell: _Cell | None) -> list[Spot]:
        """Where a row has to be: under its key always, and elsewhere as far as it says so."""
        nothing: Mapping[str, Sequence[ColumnValue]] = {}
        values = self._reader.read(cell.row).values if cell and cell.row else nothing
        spots: list[Spot] = []
        for access, group, order in self._accesses:
            texts = {field: _text(values.get(field, ())) for field in (*group, *([order] if order else []))}
            told = {field: text for field, text in texts.items() if text is not None}
            if len(told) == len(texts):
                part = tuple(told[field] for field in group) if group else bucket_of(key)
                spots.append(Spot(access, part, told[order] if order else ""))
        return spots

    async def _by_key(self, keys: Iterable[str]) -> dict[str, _Cell]:
        select = await self._driver.prepare(f"select key, row, writetime(row) from {self._rows} where key in ?")
        found = await self._driver.run(select.bind((part,)) for part in _parts(keys))
        return {key: _Cell(row, written) for key, row, written in found if row is not None}

    async def _entries(self, wanted: Iterable[tuple[str, Spot]]) -> dict[tuple[str, Spot], _Cell]:
        select = await self._driver.prepare(
            f"select access, part, place, key, row, writetime(row) from {self._finds}"
            " where access = ? and part = ? and (place, key) in ?"
        )
        places: dict[tuple[str, tuple[str, ...]], list[tuple[str, str]]] = {}
        for key, spot in wanted:
            places.setdefault((spot.access, spot.part), []).append((spot.place, key))
        statements: Iterable[Statement] = (
            select.bind((access, list(part), few))
            for (access, part), all_of in places.items()
            for few in _parts(all_of)
        )
        found = await self._driver.run(statements)
        return {
            (key, Spot(access, tuple(part), place)): _Cell(row, written or 0)
            for access, part, place, key, row, written in found
        }


def _disagreeing(row: _Cell, entries: Mapping[str, _Cell | None]) -> Iterable[str]:
    for access, entry in entries.items():
        if entry is None:
            yield f"Its copy under '{access}' is missing."
        elif entry != row:
            yield f"Its copy under '{access}' says otherwise."


def _ahead(entry: _Cell, row: _Cell | None, checkpoint: Position) -> bool:
    """Whether an entry is what a save has put there that has not come to its end."""
    position, repair = entry.version
    if row is not None and row.written >= entry.written:
        return False
    return repair == (row.version[1] if row else 0) and position > checkpoint


def _there(stored: RawRow | None) -> bool:
    return stored is not None and (stored.row is not None or bool(stored.corruption))


def _text(values: Sequence[ColumnValue]) -> str | None:
    """A column value as it sorts; None where it is not told, or in two ways."""
    texts = {text_of(value) for value in values}
    return texts.pop() if len(texts) == 1 else None


def _parts(items: Iterable[T]) -> Iterable[list[T]]:
    left = iter(items)
    while part := list(islice(left, _IN_ONE_READ)):
        yield part
