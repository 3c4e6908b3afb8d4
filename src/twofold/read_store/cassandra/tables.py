"""In charge of one build of a read model's tables: rows by key, and the same rows in the order of each access.

A row is one cell, whose timestamp is the row's version: of two, Cassandra keeps the newer, in whatever order they come.
So a save may be repeated, and so may come late what a process wrote before it died, or went on to write when it should
have stopped.

    rows_…    key | row                               "" where the row was deleted, for a week at least
    finds_…   access, part | place, key | row         see `layout.py`

Where a row goes from one place to another, it is put in the new one and deleted from the old one, and from all places
that it had on the way: an attempt with other page boundaries may have put it there. All that at the timestamp of the
new version, and only then comes the row by key. So a row that can be loaded is where it says, and nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.access import is_text
from twofold.read_store.cassandra.driver import Driver, Row, Statement, batch, token_of
from twofold.read_store.cassandra.layout import Layout, Spot, table_names
from twofold.read_store.port import VersionedRow

_POSITIONS = 2**47
"""A timestamp has 63 bits: 47 for the position, 16 for how often a row was repaired."""
_REPAIRS = 2**16
_A_WEEK = 7 * 24 * 60 * 60
_IN_ONE_READ = 50
_IN_ONE_GO = 500
"""Rows whose statements are made without letting others have a turn."""
_LARGEST_BATCH = 4_000
"""Characters. Cassandra warns of more than 5 KiB, and refuses more than 50."""
_MOST_PARTITIONS = 10
_BESIDE = 60
"""What a statement takes beside its texts, roughly."""


class _Placed(NamedTuple):
    """A row as it is to be written. `left` are the places it may have been put in before."""

    key: str
    timestamp: int
    row: str
    spots: list[Spot]
    left: list[Spot]

    @property
    def seconds(self) -> int:
        """How long it is kept; 0: for ever.

        That a repaired row was deleted is never forgotten: whoever folds on would begin again with repair number 0, and
        what he wrote would be older than the cells that ran out or were deleted under the higher number.
        """
        return 0 if self.row or self.timestamp >= _POSITIONS else _A_WEEK


class _Unit(NamedTuple):
    """Statements in one partition that belong into one batch."""

    size: int
    statements: list[Statement]


_Partitions = dict[tuple[Any, ...], list[_Unit]]


class Tables:
    """The tables of one build."""

    def __init__(self, driver: Driver, layout: Layout, build: str) -> None:
        self.layout = layout
        self.build = build
        rows, finds = table_names(layout.model.name, layout.model.generation, build)
        self.rows, self.finds = (f"{driver.address.keyspace}.{each}" for each in (rows, finds))
        self._driver = driver

    async def make(self) -> None:
        """Make the tables; nobody else has any of these names."""
        await self._driver.define(f"create table if not exists {self.rows} (key text primary key, row text)")
        await self._driver.define(
            f"create table if not exists {self.finds} (access text, part frozen<list<text>>, place text, key text,"
            " row text, primary key ((access, part), place, key))"
        )

    async def get(self, key: str) -> Any | None:
        """The row of a key, or None."""
        if not is_key(key):
            return None
        found = await self._driver.rows(f"select row from {self.rows} where key = ?", key)
        return self.layout.decode(found[0][0]) if found and found[0][0] else None

    async def load(self, keys: Iterable[str]) -> dict[str, VersionedRow]:
        """The rows of many keys, deleted ones too."""
        wanted = [key for key in dict.fromkeys(keys) if is_key(key)]
        select = await self._driver.prepare(f"select key, row, writetime(row) from {self.rows} where key in ?")
        parts = (wanted[n : n + _IN_ONE_READ] for n in range(0, len(wanted), _IN_ONE_READ))
        return self._kept(await self._driver.run(select.bind((part,)) for part in parts))

    async def check(self) -> None:
        """WiringError where the rows no longer fit the row type."""
        for (row,) in await self._driver.rows(f"select row from {self.rows} limit 10"):
            if row:
                return self.layout.check(row)

    async def save(self, rows: Mapping[str, VersionedRow]) -> None:
        """Write rows, where newer than those kept. InvalidMessage, and nothing written, if one cannot be."""
        placed = [self._place(key, kept) for key, kept in rows.items()]
        for n in range(0, len(placed), _IN_ONE_GO):
            await self._write(placed[n : n + _IN_ONE_GO])

    async def copy(self, old: str) -> None:
        """Write what is in another table of rows. WiringError where a row does not fit the row type."""
        async for page in self._driver.pages(f"select key, row, writetime(row) from {old}"):
            for _, row, _ in page:
                if row:
                    self.layout.check(row)
            try:
                await self.save(self._kept(page))
            except InvalidMessage as error:
                raise WiringError(f"Rows that are kept cannot be found as is declared now. {error}") from error

    def _kept(self, found: Iterable[Row]) -> dict[str, VersionedRow]:
        decode = self.layout.decode
        return {
            key: VersionedRow(decode(row) if row else None, *version_of(written))
            for key, row, written in found
            if row is not None
        }

    def _place(self, key: str, kept: VersionedRow) -> _Placed:
        layout, row = self.layout, kept.row
        try:
            key.encode()
            text, spots = ("", []) if row is None else (layout.encode(row), layout.spots(key, row))
            timestamp = timestamp_of(kept)
        except InvalidMessage as error:
            raise InvalidMessage(f"Row '{key[:100]}' of '{layout.model.name}': {error}", field=error.field) from error
        except (TypeError, ValueError) as error:
            raise InvalidMessage(f"Row {key[:100]!r} of '{layout.model.name}' cannot be stored: {error}.") from error
        left = dict.fromkeys(chain.from_iterable(self._spots(key, each) for each in kept.previous_rows))
        return _Placed(key, timestamp, text, spots, [spot for spot in left if spot not in spots])

    def _spots(self, key: str, row: Any | None) -> Sequence[Spot]:
        """Where a row may have been. What cannot be stored never was."""
        try:
            return self.layout.spots(key, row) if row is not None else ()
        except InvalidMessage:
            return ()

    async def _write(self, rows: Sequence[_Placed]) -> None:
        put = await self._driver.prepare(
            f"update {self.finds} using timestamp ? set row = ? where access = ? and part = ? and place = ? and key = ?"
        )
        drop = await self._driver.prepare(
            f"delete from {self.finds} using timestamp ? where access = ? and part = ? and place = ? and key = ?"
        )
        keep = await self._driver.prepare(f"update {self.rows} using timestamp ? and ttl ? set row = ? where key = ?")
        puts: _Partitions = {}
        drops: _Partitions = {}
        keeps: _Partitions = {}
        for row in rows:
            _moves(row, put, drop, puts, drops)
            statement = keep.bind((row.timestamp, row.seconds, row.row, row.key))
            keeps[(row.key,)] = [_Unit(len(row.row) + len(row.key) + _BESIDE, [statement])]
        # What is found twice for a moment is better than what is not found; what is loaded has left its old places.
        for each in (puts, drops, keeps):
            await self._driver.run(_batches(each))


def timestamp_of(kept: VersionedRow) -> int:
    """The timestamp a row is written at. Versions in order have timestamps in order."""
    if not 0 <= kept.position < _POSITIONS or not 0 <= kept.repair < _REPAIRS:
        raise InvalidMessage(f"Position {kept.position} and repair {kept.repair} are beyond what this store can order.")
    return kept.repair * _POSITIONS + kept.position


def version_of(timestamp: int) -> tuple[int, int]:
    """Position and repair number of what was written at a timestamp."""
    repair, position = divmod(timestamp, _POSITIONS)
    return position, repair


def _moves(row: _Placed, put: Any, drop: Any, puts: _Partitions, drops: _Partitions) -> None:
    """Add the statements that bring a row to its places, and out of those it left."""
    left: dict[tuple[Any, ...], list[_Unit]] = {}
    for access, part, place in row.left:
        size = len(place) + len(row.key) + _BESIDE
        unit = _Unit(size, [drop.bind((row.timestamp, access, part, place, row.key))])
        left.setdefault((access, part), []).append(unit)
    for access, part, place in row.spots:
        size = len(row.row) + len(place) + len(row.key) + _BESIDE
        statements = [put.bind((row.timestamp, row.row, access, part, place, row.key))]
        behind = left.get((access, part), [])
        # From place to place within a partition it goes in one step, which readers see whole.
        while behind and size + behind[0].size <= _LARGEST_BATCH:
            size += behind[0].size
            statements += behind.pop(0).statements
        puts.setdefault((access, part), []).append(_Unit(size, statements))
    for partition, units in left.items():
        if units:
            drops.setdefault(partition, []).extend(units)


def _batches(partitions: _Partitions) -> Iterator[Statement]:
    """Few requests: as much of a partition together as may be, and small partitions whose replicas are the same."""
    together: list[Statement] = []
    size = among = 0
    for units in sorted(partitions.values(), key=lambda units: token_of(units[0].statements[0])):
        among += 1
        for unit in units:
            if together and (size + unit.size > _LARGEST_BATCH or among > _MOST_PARTITIONS):
                yield together[0] if len(together) == 1 else batch(together)
                together, size, among = [], 0, 1
            together += unit.statements
            size += unit.size
    if together:
        yield together[0] if len(together) == 1 else batch(together)


def is_key(key: str) -> bool:
    """Whether a key can be kept here: not empty, and not longer than a partition key may be."""
    return is_text(key) and 0 < len(key.encode()) <= 65_535
