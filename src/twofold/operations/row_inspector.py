"""Rows of one generation as they are stored, each with the log positions for which it is the state of its key."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.domain.projection import MAX_KEY
from twofold.errors import ForkedHistory, UnknownMessage, WiringError
from twofold.read_store.partition import ParkedEvent
from twofold.read_store.port import Checkpoint, RawRow, ReadModel, ReadStore
from twofold.synchronization.event_parking import events_among
from twofold.write_store.history import check_history, does_not_hold
from twofold.write_store.port import WriteStore

_NEAR = 4
_LAST = "\U0010ffff"


class RowObservation(NamedTuple):
    """What is known of a key after its row was read. `row` is None if there was none.

    A row last changed at `position` is the state of its key at every position from `first` to `last`. A missing row,
    and one whose `position` is not known (None), is the state at one of them at least. `parked`: the key is parked,
    so its row says nothing about later positions. `corruption` is a sentence about a row that is not as it was
    written: there is a row, though `row` may be None, and it is the state of its key at no position.
    """

    row: Any | None
    position: Position | None
    first: Position
    last: Position
    parked: bool = False
    corruption: str = ""

    @property
    def exists(self) -> bool:
        """Whether there is a row at all."""
        return self.row is not None or bool(self.corruption)


class ObservedPage(NamedTuple):
    """Observed rows in the order of their keys. None is missing up to the key `upto`; None if the page is the last."""

    rows: dict[str, RowObservation]
    upto: str | None


class RowInspector:
    """Reads rows of one generation from any read store while followers change them.

    A row last changed at p and read when its checkpoint had reached c is the state from p to c: it would contain any
    event in between. A missing row is the state somewhere between c and the head read afterwards, because a store that
    writes rows before checkpoints may delete a row ahead of its checkpoint. `idle` says that no follower writes. If the
    `model` is given, rows are checked against its type, and against the columns that finds read.
    """

    def __init__(
        self,
        write_store: WriteStore,
        read_store: ReadStore,
        name: str,
        generation: int,
        *,
        model: ReadModel | None = None,
        idle: bool = False,
    ) -> None:
        self.name = name
        self.generation = generation
        self._write_store = write_store
        self._read_store = read_store
        self._model = model
        self._idle = idle
        self._checkpoints: list[Checkpoint] = []
        self._head: Position = 0
        self._parked: set[str] = set()
        self.parked_events: frozenset[ParkedEvent] = frozenset()
        """The events that were parked by position at the last read."""

    async def position(self) -> Position:
        """The position of the lowest checkpoint. UnknownMessage if there is no such generation."""
        return min(checkpoint.progress.position for checkpoint in await self._read_checkpoints())

    async def page(self, after: str, limit: int) -> ObservedPage:
        """At most `limit` rows after a key."""
        await self._before_rows()
        page = await self._read_store.raw_rows(self.name, self.generation, after, limit)
        rows = dict(page)
        if self._model is not None and (self._model.find_by or self._model.order_by):
            # The columns of fields that finds read are not in the JSON.
            rows = await self._read_store.inspect(self._model, list(rows))
        await self._after_rows()
        return ObservedPage(self._observations(rows), page[-1][0] if len(page) == limit else None)

    async def rows(self, keys: Iterable[str]) -> dict[str, RowObservation]:
        """The observations of these keys, also of those without a row."""
        distinct = list(dict.fromkeys(keys))
        await self._before_rows()
        rows = await self._raw_rows(distinct)
        await self._after_rows()
        observed = self._observations(rows)
        return {key: observed.get(key) or self.absent(key) for key in distinct}

    def absent(self, key: str) -> RowObservation:
        """The observation of a key that had no row at the last read."""
        first = self._reached(key)
        return RowObservation(None, 0, first, first if self._idle else max(first, self._head), key in self._parked)

    async def _before_rows(self) -> None:
        """Read the checkpoints: the rows read next are no older."""
        self._checkpoints = await self._read_checkpoints()
        self._parked = {parked.key for checkpoint in self._checkpoints for parked in checkpoint.parked}

    async def _after_rows(self) -> None:
        """Read the head: the rows read before are no newer."""
        if not self._idle:
            self._head = (await self._write_store.read(NO_EVENTS)).head

    async def _read_checkpoints(self) -> list[Checkpoint]:
        checkpoints = await self._read_store.checkpoints()
        checkpoints = [at for at in checkpoints if (at.name, at.generation) == (self.name, self.generation)]
        if not checkpoints:
            raise UnknownMessage(f"There is no generation {self.generation} of '{self.name}'.", field="name")
        self.parked_events = events_among(key.key for each in checkpoints for key in each.parked)
        if any(each.progress.position > self._head for each in checkpoints):
            # Read after the checkpoints: then none of them can be ahead of it.
            self._head = (await self._write_store.read(NO_EVENTS)).head
        for checkpoint in checkpoints:
            position, stamp = checkpoint.progress.position, checkpoint.progress.stamp
            if not position:
                continue
            try:
                await check_history(self._write_store, stamp, position)
            except ForkedHistory as error:
                raise WiringError(does_not_hold(self.name, position, error)) from error
        return checkpoints

    def _observations(self, rows: Mapping[str, RawRow]) -> dict[str, RowObservation]:
        """Without deleted rows, which some stores return."""
        observed: dict[str, RowObservation] = {}
        for key, raw in rows.items():
            if raw.row is not None or raw.corruption:
                last = max(raw.position, self._reached(key))
                observed[key] = RowObservation(
                    raw.row, raw.position, raw.position, last, key in self._parked, raw.corruption
                )
        return observed

    def _reached(self, key: str) -> Position:
        at = (checkpoint for checkpoint in self._checkpoints if checkpoint.partition.holds(key))
        return next((checkpoint.progress.position for checkpoint in at), 0)

    async def _raw_rows(self, keys: Sequence[str]) -> Mapping[str, RawRow]:
        if self._model is not None:
            return await self._read_store.inspect(self._model, keys)
        rows = {key: await self._raw_row(key) for key in keys}
        return {key: row for key, row in rows.items() if row is not None}

    async def _raw_row(self, key: str) -> RawRow | None:
        after = just_before(key)
        while True:
            page = await self._read_store.raw_rows(self.name, self.generation, after, _NEAR)
            for other, row in page:
                if other >= key:
                    return row if other == key else None
            if len(page) < _NEAR:
                return None
            after = page[-1][0]


async def read_both(
    old: RowInspector, new: RowInspector, after: str, limit: int
) -> tuple[dict[str, tuple[RowObservation, RowObservation]], str | None]:
    """The rows of two generations after a key, in pairs by key, and the key to go on after (None: there are no more).

    At most `limit` rows of each are read.
    """
    old_page, new_page = await old.page(after, limit), await new.page(after, limit)
    # After the end of the shorter page, the rows of one side are not known yet.
    upto = min((page.upto for page in (old_page, new_page) if page.upto is not None), default=None)
    keys = sorted(key for key in old_page.rows.keys() | new_page.rows.keys() if upto is None or key <= upto)
    old_rows, new_rows = old_page.rows, new_page.rows
    return {key: (old_rows.get(key) or old.absent(key), new_rows.get(key) or new.absent(key)) for key in keys}, upto


def just_before(key: str) -> str:
    """A text that sorts before `key`, with hardly any other key between them."""
    stem, code = key[:-1], ord(key[-1])
    if not code:
        return stem
    # A lone surrogate is not text.
    before = stem + chr(0xD7FF if code == 0xE000 else code - 1)
    return before if len(before) >= MAX_KEY else before + _LAST
