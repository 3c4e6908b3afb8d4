"""In charge of folding a page's events into rows that are loaded in one read, and kept in memory until they go cold."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.read_store.port import Kept, ReadModel, ReadStore

Work = tuple[RecordedEvent, object, str]
ABSENT = Kept(None, 0)


class FoldFailed(Exception):
    """A fold raised for one key; the cause is chained."""

    def __init__(self, key: str, recorded: RecordedEvent, cause: Exception) -> None:
        what = f"{type(cause).__name__}: {cause}"[:500]
        super().__init__(f"the fold failed for key '{key}' at position {recorded.position} with {what}")
        self.key = key
        self.position = recorded.position


class _Row:
    """A row on its way through a page."""

    __slots__ = ("changed", "passed", "position", "repair", "row")

    def __init__(self, kept: Kept) -> None:
        self.row = kept.row
        self.position = kept.position
        self.repair = kept.repair
        self.passed: list[Any] = []
        self.changed = False


class Rows:
    """The rows of one follower. What it saved last it need not load again: nobody else writes under its lease.

    Whoever fails to save, or learns that others have, must `forget`.
    """

    def __init__(self, projection: BoundProjection, model: ReadModel, views: ReadStore, most: int) -> None:
        self._projection = projection
        self._model = model
        self._views = views
        self._most = most
        self._known: dict[str, Kept] = {}
        self._knows_all = False

    def start_empty(self) -> None:
        """Take it that there is no row yet: what is not remembered is absent, as long as all can be remembered."""
        self._known.clear()
        self._knows_all = True

    async def fold(self, work: Sequence[Work], skips: frozenset[tuple[str, Position]]) -> dict[str, Kept]:
        """The rows that `work` changes. FoldFailed where a fold raises."""
        rows = await self._load(dict.fromkeys(key for _, _, key in work))
        return fold_all(self._projection, work, rows, skips)

    def saved(self, changed: dict[str, Kept]) -> None:
        """Remember what has been saved."""
        for key, kept in changed.items():
            self._known.pop(key, None)
            self._known[key] = Kept(kept.row, kept.position, kept.repair) if kept.passed else kept
        self._trim()

    def forget(self) -> None:
        """Load everything anew."""
        self._known.clear()
        self._knows_all = False

    async def _load(self, keys: Iterable[str]) -> dict[str, Kept]:
        known = self._known
        rows = {key: known[key] for key in keys if key in known}
        missing = [key for key in keys if key not in rows]
        if missing and not self._knows_all:
            rows |= await self._views.load(self._model, missing)
        return rows

    def _trim(self) -> None:
        excess = len(self._known) - self._most
        if excess > 0:
            self._knows_all = False
            for key in list(islice(self._known, excess)):
                del self._known[key]


def fold_all(
    projection: BoundProjection,
    work: Iterable[Work],
    rows: dict[str, Kept],
    skips: frozenset[tuple[str, Position]] = frozenset(),
) -> dict[str, Kept]:
    """The rows that `work` makes of `rows`, those that change only. FoldFailed where a fold raises.

    An event that a row has in it already, by the row's position, is passed over; so are `skips` (key, position).
    """
    fold = projection.fold
    under_way: dict[str, _Row] = {}
    for recorded, event, key in work:
        row = under_way.get(key)
        if row is None:
            row = under_way[key] = _Row(rows.get(key, ABSENT))
        position = recorded.position
        if position <= row.position or (skips and (key, position) in skips):
            continue
        try:
            after = fold(row.row, event, key, recorded)
        except Exception as error:
            raise FoldFailed(key, recorded, error) from error
        if row.row is not None:
            row.passed.append(row.row)
        elif after is None:
            continue
        row.row, row.position, row.changed = after, position, True
    return {
        key: Kept(row.row, row.position, row.repair, tuple(row.passed)) for key, row in under_way.items() if row.changed
    }
