"""Folding a few keys from their first events, each up to the position that its stored row claims."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import WiringError
from twofold.operations.row_equality import rows_equal
from twofold.operations.row_inspector import RowObservation
from twofold.read_store.partition import ParkedEvent
from twofold.synchronization.folding import ABSENT, FoldFailed, decode_all, fold_all, with_keys
from twofold.synchronization.follower import Skips
from twofold.world import World
from twofold.write_store.port import WriteStore

PAGE = 1_000
_TAGS = 100
_KEYS = 2_000


class KeyFold(NamedTuple):
    """The folded row of a key at the last position its stored row claims, and whether the stored row is `right`.

    `error` says where the fold fails before that.
    """

    row: RowObservation
    right: bool
    error: str | None = None


class KeyFolds:
    """Folds keys of one projection without the events in `skips`. Only the rows are in memory."""

    def __init__(
        self,
        write_store: WriteStore,
        projection: BoundProjection,
        decode: Callable[[RecordedEvent], Any],
        world: World,
        skips: Skips = frozenset(),
    ) -> None:
        self._world = world
        self._write_store = write_store
        self.projection = projection
        self._decode = decode
        self.skips = skips
        self.left_out: frozenset[ParkedEvent] = frozenset()
        """Events that are parked or skipped by position: no stored row has them."""
        # Without a tag for each key, every event of the projection is read: then for many keys at once.
        by_tag = projection.events_of("a") != projection.events_of("b")
        self.at_once = _TAGS if by_tag else _KEYS

    async def fold(self, claims: Mapping[str, RowObservation]) -> dict[str, KeyFold]:
        """Compare each row with the fold of its key at the positions from `first` to `last`. At most `at_once` keys."""
        folding = {key: _Folding(self.projection, key, claim, self.skips) for key, claim in claims.items()}
        last = max((claim.last for claim in claims.values()), default=0)
        query = self._query(claims)
        position: Position = 0
        while position < last:
            page = await self._write_store.read(query, position, PAGE)
            if page.upto <= position:
                break
            without = frozenset(event.position for event in self.left_out)
            for recorded, decoded in zip(page.events, decode_all(self._decode, page.events), strict=True):
                event, keys = with_keys(self.projection, recorded, decoded)
                if keys is None and recorded.position not in without:
                    raise no_key(self.projection.name, recorded, event.__cause__ or event)
                for key in keys or ():
                    if key in folding and not (without and self._is_left_out(recorded.position, key)):
                        folding[key].take(recorded, event)
            position = page.upto
            # SQLite is read on the event loop, so other tasks need a turn.
            await self._world.sleep(0)
        return {key: fold.result() for key, fold in folding.items()}

    def _is_left_out(self, position: Position, key: str) -> bool:
        return any(event.position == position and event.partition.holds(key) for event in self.left_out)

    def _query(self, keys: Iterable[str]) -> EventQuery:
        items: dict[QueryItem, None] = {}
        for key in keys:
            items |= dict.fromkeys(self.projection.events_of(key).items)
        return EventQuery(tuple(items))


def no_key(projection: str, event: RecordedEvent, error: BaseException) -> WiringError:
    """The error for an event of which a projection cannot tell the key."""
    return WiringError(
        f"'{projection}' cannot be audited: its key for the '{event.type}' event at position {event.position} fails "
        f"with {type(error).__name__}: {error}. Fix that first."
    )


class _Folding:
    """The fold of one key."""

    def __init__(self, projection: BoundProjection, key: str, claim: RowObservation, skips: Skips) -> None:
        self._projection = projection
        self._key = key
        self._claim = claim
        self._skips = skips
        self._folded = ABSENT
        self._error: str | None = None
        self._right = False

    def take(self, recorded: RecordedEvent, event: object) -> None:
        """Fold the next event."""
        claim = self._claim
        if self._error is not None or recorded.position > claim.last:
            return
        if recorded.position > claim.first:
            self._check()
        try:
            changed = fold_all(self._projection, [(recorded, event, self._key)], {self._key: self._folded}, self._skips)
        except FoldFailed as failed:
            cause = failed.__cause__
            self._error = f"The fold fails at position {failed.position}: {type(cause).__name__}: {cause}"[:500]
            return
        self._folded = changed.get(self._key, self._folded)

    def result(self) -> KeyFold:
        """The fold of all events given."""
        absent = RowObservation(None, self._folded.position, self._folded.position, self._claim.last)
        try:
            if self._error is None:
                self._check()
            return KeyFold(absent._replace(row=_plain(self._folded.row)), self._right, self._error)
        except TypeError as error:
            # A row that is not JSON could not have been saved.
            return KeyFold(absent, False, f"The row cannot be saved: {error}")

    def _check(self) -> None:
        """Compare the fold up to here with the stored row."""
        claim, folded = self._claim, self._folded
        if claim.corruption:
            return
        if claim.row is None or folded.row is None:
            self._right |= claim.row is folded.row
        elif claim.position in (folded.position, None):
            self._right |= rows_equal(claim.row, _plain(folded.row), self._projection.row)


def _plain(row: Any | None) -> Any | None:
    return None if row is None else msgspec.json.decode(msgspec.json.encode(row))
