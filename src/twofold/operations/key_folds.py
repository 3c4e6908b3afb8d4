"""In charge of folding a few keys from their first events, each to the position that a stored row claims to be of."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import WiringError
from twofold.operations.looking import Seen
from twofold.operations.row_equality import rows_equal
from twofold.synchronization.folding import ABSENT, FoldFailed, fold_all
from twofold.world import World
from twofold.write_store.port import WriteStore

PAGE = 1_000
_TAGS = 100
_KEYS = 2_000

Skips = frozenset[tuple[str, Position]]


class Folded(NamedTuple):
    """What the log says of a key: the state at the last position that was claimed, and whether the claim holds.

    `error` says where the fold fails before that.
    """

    seen: Seen
    right: bool
    error: str | None = None


class KeyFolds:
    """Folds keys of one projection, as `skips` have it, without keeping more than their rows."""

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
        self._projection = projection
        self._decode = decode
        self.skips = skips
        # A key that no tag stands for is looked for in every event of the projection: then many together.
        by_tag = projection.events_of("a") != projection.events_of("b")
        self.at_once = _TAGS if by_tag else _KEYS

    async def fold(self, claims: Mapping[str, Seen]) -> dict[str, Folded]:
        """Whether rows are what they claim: the state at one of the positions from `first` to `last`.

        At most `at_once` keys.
        """
        folding = {key: _Folding(self._projection, key, claim, self.skips) for key, claim in claims.items()}
        last = max((claim.last for claim in claims.values()), default=0)
        query = self._query(claims)
        position: Position = 0
        while position < last:
            page = await self._write_store.read(query, position, PAGE)
            if page.upto <= position:
                break
            for recorded in page.events:
                event, keys = self._read(recorded)
                for key in keys:
                    if key in folding:
                        folding[key].take(recorded, event)
            position = page.upto
            # Files are read on the event loop: whoever runs on it, too, has a turn now and then.
            await self._world.sleep(0)
        return {key: each.folded() for key, each in folding.items()}

    def _read(self, recorded: RecordedEvent) -> tuple[object, tuple[str, ...]]:
        try:
            event = self._decode(recorded)
            return event, self._projection.keys(event)
        except Exception as error:
            raise WiringError(
                f"'{self._projection.name}' cannot be audited: it has no key for the '{recorded.type}' event at "
                f"position {recorded.position}: {type(error).__name__}: {error}. Mend that first."
            ) from error

    def _query(self, keys: Iterable[str]) -> EventQuery:
        items: dict[QueryItem, None] = {}
        for key in keys:
            items |= dict.fromkeys(self._projection.events_of(key).items)
        return EventQuery(tuple(items))


class _Folding:
    """One key on its way."""

    def __init__(self, projection: BoundProjection, key: str, claim: Seen, skips: Skips) -> None:
        self._projection = projection
        self._key = key
        self._claim = claim
        self._skips = skips
        self._kept = ABSENT
        self._error: str | None = None
        self._right = False

    def take(self, recorded: RecordedEvent, event: object) -> None:
        """Fold one event more."""
        claim = self._claim
        if self._error is not None or recorded.position > claim.last:
            return
        if recorded.position > claim.first:
            self._check()
        try:
            changed = fold_all(self._projection, [(recorded, event, self._key)], {self._key: self._kept}, self._skips)
        except FoldFailed as failed:
            cause = failed.__cause__
            self._error = f"The fold fails at position {failed.position}: {type(cause).__name__}: {cause}"[:500]
            return
        self._kept = changed.get(self._key, self._kept)

    def folded(self) -> Folded:
        """The state at the end."""
        position = self._kept.position
        try:
            if self._error is None:
                self._check()
            return Folded(Seen(_plain(self._kept.row), position, position, self._claim.last), self._right, self._error)
        except TypeError as error:
            # What JSON cannot hold could not have been saved.
            return Folded(Seen(None, position, position, self._claim.last), False, f"The row cannot be kept: {error}")

    def _check(self) -> None:
        """Whether the state up to here is what was claimed."""
        claim, kept = self._claim, self._kept
        if claim.corruption:
            return
        if claim.row is None or kept.row is None:
            self._right |= claim.row is kept.row
        elif claim.position in (kept.position, None):
            self._right |= rows_equal(claim.row, _plain(kept.row), self._projection.row)


def _plain(row: Any | None) -> Any | None:
    return None if row is None else msgspec.json.decode(msgspec.json.encode(row))
