"""Folded decision models: a cache of states, how they are brought up to date, and what pending appends add to them."""

import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from twofold.codec import EventCodec
from twofold.command_service.fold_reads import FoldedState, IsLong, SharedReads
from twofold.command_service.log_folding import NO_TAG, LogFolding, NewestStates, not_shared, tag_of_fold
from twofold.command_service.pending import (
    PendingAppend,
    PendingAppends,
    SeenBoundary,
    boundary_conditions,
    concerns,
    rests_of,
    state_after,
)
from twofold.command_service.snapshots import Snapshots
from twofold.domain.decision import Fold
from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position
from twofold.world import World
from twofold.write_store.port import Append, Appended, Outcome, Slice, WriteStore

log = logging.getLogger(__name__)


class PendingStates(msgspec.Struct):
    """States that have also seen the events of all pending appends, and what exactly each has seen."""

    states: dict[Fold, Any]
    seen: dict[Fold, SeenBoundary]


class _Era(msgspec.Struct, eq=False):
    """A part of the log that only this process wrote: after `start`, up to and including `upto`."""

    start: Position
    upto: Position


class _CachedState(msgspec.Struct, eq=False):
    """A cached state. As long as its era lasts, it sees every event and is as new as the era.

    `query` selects its events. `tip` is the state after the pending appends up to the number `tip_number`, those in
    `rests` and what they rest on. Appends up to the number `sent` may have been written before the state was read, so
    that it may have seen them. `events` were folded since the last snapshot.
    """

    query: EventQuery
    state: Any
    upto: Position
    era: _Era
    sent: int
    tip: Any
    tip_number: int = 0
    rests: tuple[PendingAppend, ...] = ()
    events: int = 0

    def folded(self) -> FoldedState:
        return FoldedState(self.state, max(self.upto, self.era.upto), self.events)

    def reset(self) -> None:
        """Forget what pending appends add. It is added again when the state is needed."""
        self.tip = self.state
        self.tip_number = 0
        self.rests = ()


class Folds:
    """A bounded cache of folded states: the least recently used one is removed first.

    What this process writes is folded into the cached states. A state that a written decision rested on stays valid:
    the conditions of its append held, so no other event of its boundary came in between. All others stay valid as long
    as this process writes alone. If the positions it gets are not contiguous, another process has written: the era
    ends. So a cached state may be old. That is safe: every decision made on it carries an append condition "nothing
    newer than this state has seen", and answers that append nothing are given only after the log was read.
    """

    def __init__(
        self, write_store: WriteStore, codec: EventCodec, world: World, snapshots: Snapshots, size: int
    ) -> None:
        self._write_store = write_store
        self._folding = LogFolding(write_store, codec, world, snapshots)
        self._snapshots = snapshots
        self._snapshot_after = snapshots.every or sys.maxsize
        self._size = size
        self._cached: OrderedDict[Fold, _CachedState] = OrderedDict()
        self._by_tag: dict[str, dict[Fold, _CachedState]] = {}
        self._pinned: dict[Fold, int] = {}
        self._era = _Era(0, 0)
        self._pending = PendingAppends()
        self._reads = SharedReads(self._bring_up_to_date)

    # The states to decide on

    def present(self, folds: Sequence[Fold]) -> PendingStates | None:
        """The state of each fold, perhaps an old one; None where one has to be loaded first."""
        states: dict[Fold, Any] = {}
        seen: dict[Fold, SeenBoundary] = {}
        for fold in folds:
            cached = self._cached.get(fold)
            if cached is None:
                return None
            newer = self._pending.of(fold.tags, cached.tip_number)
            if newer and self._catch_up(fold, cached, newer) is not None:
                return None
            self._cached.move_to_end(fold)
            states[fold] = cached.tip
            upto = cached.upto
            if upto < cached.era.upto:
                upto = cached.era.upto
            seen[fold] = SeenBoundary(cached, cached.query, upto, upto, cached.rests)
        return PendingStates(states, seen)

    async def load(self, folds: Sequence[Fold], waits: Callable[[], None] = lambda: None) -> PendingStates:
        """The state of each fold. Folds that are not cached are read from the log. Decide without awaiting anything.

        Calls `waits` where it waits for a pending append.
        """
        self.pin(folds)
        try:
            while True:
                missing = {
                    fold: FoldedState(fold.model.initial(fold.tags), 0) for fold in folds if fold not in self._cached
                }
                if missing:
                    await self._reads.read(missing)
                states = self.present(folds)
                if states is not None:
                    return states
                for fold in folds:
                    cached = self._cached.get(fold)
                    if cached is not None:
                        newer = self._pending.of(fold.tags, cached.tip_number)
                        pending = self._catch_up(fold, cached, newer)
                        if pending is not None:
                            waits()
                            await pending.wait()
        finally:
            self.unpin(folds)

    async def renew(self, seen: Mapping[Fold, SeenBoundary]) -> None:
        """Read what is newer than a decision has seen, unless the cached states are newer already."""
        old: dict[Fold, FoldedState] = {}
        for fold, boundary in seen.items():
            cached = self._cached.get(fold)
            # A cached state that is not newer may be the one that was too old, and would fail again and again.
            if cached is not None and cached.folded().upto <= boundary.after:
                old[fold] = cached.folded()
        if old:
            await self._reads.read(old)

    def _catch_up(self, fold: Fold, cached: _CachedState, newer: Sequence[PendingAppend]) -> PendingAppend | None:
        """Add these pending appends to a cached state. The append to wait for first, if there is one."""
        for pending in newer:
            if fold.model.takes_recorded or pending.number <= cached.sent:
                if any(True for _ in pending.events_of(fold)):
                    return pending
            else:
                try:
                    state, found = state_after(fold, cached.tip, pending)
                except Exception:
                    # If the event is written, the log is read, and the next command gets the error.
                    log.debug("%s failed on an event that is not written yet", fold.model.name, exc_info=True)
                    return pending
                if found:
                    cached.tip = state
                    cached.rests = (pending,) if fold in pending.seen else (*cached.rests, pending)
            cached.tip_number = pending.number
        return None

    # Reading the log

    async def refresh(
        self, folded: Mapping[Fold, FoldedState], command_id: str | None = None, is_long: IsLong = not_shared
    ) -> tuple[dict[Fold, FoldedState], Appended | None]:
        """The folds at one moment of the log, and the outcome of a command id at that moment."""
        newest = await self._folding.newest(folded, command_id, is_long)
        self._keep(newest)
        return newest.states, newest.outcome

    def cached_states(self, folds: Iterable[Fold]) -> dict[Fold, FoldedState]:
        """Those of these folds that are in the cache."""
        return {fold: self._cached[fold].folded() for fold in folds if fold in self._cached}

    async def add(self, folded: Mapping[Fold, FoldedState], page: Slice) -> list[Fold]:
        """Fold what is newer than these states into the cache. Those that have changed.

        No append of this process may be under way.
        """
        newest = await self._folding.newest_by(folded, page)
        self._keep(newest)
        return [fold for fold, state in newest.states.items() if state.events > folded[fold].events]

    async def confirm(self, seen: Mapping[Fold, SeenBoundary], command_id: str) -> tuple[bool, Appended | None]:
        """Whether a decision that rests on pending appends was made on all events before one moment of the log.

        The moment is the one at which the last of these appends was written. Also the outcome of a command id.
        """
        rests = rests_of(seen)
        for rest in rests:
            await rest.wait()
        if not self._resolve(seen):
            await self.renew(seen)
            return False, None
        # A fold may have been read later than the last of these was written: all must hold at the same moment.
        moment = max(boundary.after for boundary in seen.values())
        page, outcome = await self._write_store.newer(boundary_conditions(seen), command_id, 1)
        if not page.events or page.events[0].position > moment:
            return True, outcome
        await self.renew(seen)
        return False, outcome

    async def _bring_up_to_date(self, states: Mapping[Fold, FoldedState], is_long: IsLong) -> None:
        """Read what is newer than these states, or than the cached ones where those are newer, into the cache."""
        newest = dict(states)
        for fold, state in states.items():
            cached = self._cached.get(fold)
            if cached is not None and cached.folded().upto > state.upto:
                newest[fold] = cached.folded()
        newest, _ = await self.refresh(newest, is_long=is_long)
        # What this process has written during the read may be missing.
        while any(upto < self._era.upto for _, upto, _ in newest.values()):
            newest, _ = await self.refresh(newest, is_long=is_long)

    # What this process writes

    def begin(self, append: Append, events: Sequence[object], states: PendingStates) -> PendingAppend:
        """A pending append that was decided on these states, which `present` has returned just now."""
        return self._pending.add(append, events, states.seen)

    def placed_in_batch(self, pending: PendingAppend, place: int) -> Append | None:
        """The append for its place in a batch; None where it cannot be written, since what it rests on was not."""
        self._pending.last_sent = pending.number
        pending.place = place
        if not pending.rests:
            return pending.append
        if not self._resolve(pending.seen):
            return None
        places = sorted(rest.place for rest in rests_of(pending.seen) if not rest.settled and rest.place is not None)
        return msgspec.structs.replace(
            pending.append, conditions=boundary_conditions(pending.seen), rests_on=tuple(places)
        )

    def settle(self, pending: PendingAppend | None, outcome: Outcome | None) -> None:
        """Note the outcome of an append; None: it is not known. Called in the order of positions.

        `pending` is None for an append of the runtime, which writes no events.
        """
        if pending is not None:
            self._pending.remove(pending)
        if not isinstance(outcome, Appended) or outcome.repeated:
            if pending is not None:
                pending.settle(None)
                for cached in self._with_tags((NO_TAG, *pending.tags)):
                    cached.reset()
            return
        before = outcome.position - outcome.count
        if before != self._era.upto:
            self._era = _Era(before, before)
        if pending is None:
            self._era.upto = outcome.position
            return
        if outcome.count:
            self._advance(pending, before, outcome)
        self._era.upto = outcome.position
        for fold, seen in pending.seen.items():
            kept = self._cached.get(fold)
            if kept is not None and kept is seen.cached and kept.upto < outcome.position:
                kept.upto, kept.era = outcome.position, self._era
        pending.settle(outcome.position)

    def _resolve(self, seen: Mapping[Fold, SeenBoundary]) -> bool:
        """Move what a decision has seen beyond the written appends that it rests on. False if one is not written.

        Also false if other processes may have written to a fold before an append that did not depend on that fold.
        """
        for fold, boundary in seen.items():
            for rest in boundary.rests:
                own = rest.seen.get(fold)
                checked = own is not None and own.base <= boundary.after
                if rest.failed or not (checked or own is None):
                    return False
                if rest.position is not None:
                    if not (checked or self._era.start <= boundary.after):
                        return False
                    boundary.after = max(boundary.after, rest.position)
                elif own is not None:
                    boundary.after = max(boundary.after, own.after)
        return True

    def _advance(self, pending: PendingAppend, before: Position, written: Appended) -> None:
        touched: dict[Fold, list[int]] = {}
        position = before
        for new, event in zip(pending.append.events, pending.events, strict=True):
            for tag in (NO_TAG, *new.tags):
                of_tag = self._by_tag.get(tag)
                if of_tag is None:
                    continue
                for fold, cached in of_tag.items():
                    if position >= cached.upto and concerns(fold, event, new.tags):
                        touched.setdefault(fold, []).append(position - before)
            position += 1
        for fold, places in touched.items():
            cached = self._cached[fold]
            seen = pending.seen.get(fold)
            if (seen is None or seen.cached is not cached) and cached.folded().upto < self._era.start:
                # Other events of this fold may have come before these.
                self._forget(fold)
                continue
            cached.era = self._era
            if cached.rests and cached.rests[-1] is pending:
                cached.state, cached.rests = cached.tip, ()
            elif not self._advance_one(fold, cached, pending, before, places):
                continue
            cached.events += len(places)
            if cached.events >= self._snapshot_after:
                self._offer(fold, cached, written.position, written.digest)

    def _advance_one(
        self, fold: Fold, cached: _CachedState, pending: PendingAppend, before: Position, places: Iterable[int]
    ) -> bool:
        try:
            for i in places:
                recorded = pending.recorded(i, before) if fold.model.takes_recorded else None
                cached.state = fold.model.evolve(cached.state, pending.events[i], recorded)
        except Exception:
            # The event is written. The next command that needs this fold reads the log and gets the error.
            log.exception("%s failed on an event just written", fold.model.name)
            self._forget(fold)
            return False
        if cached.tip_number < pending.number:
            cached.reset()
        else:
            cached.rests = tuple([rest for rest in cached.rests if rest is not pending])
        return True

    def _offer(self, fold: Fold, cached: _CachedState, position: Position, digest: str) -> None:
        """Have a snapshot taken of a cached state as it is at a position."""
        if self._snapshots.offer(fold, cached.state, position, digest, cached.events):
            cached.events = 0

    # The cache

    def _keep(self, newest: NewestStates) -> None:
        for fold, (state, upto, events) in newest.states.items():
            cached = self._cached.get(fold)
            # A state that has not seen what this process has written meanwhile must not be updated by later events.
            if upto < self._era.upto or (cached is not None and cached.folded().upto > upto):
                continue
            if cached is not None and cached.state is state and not self._pending.may_be_read(fold):
                cached.upto, cached.era, cached.events = upto, self._era, max(events, cached.events)
                continue
            self._forget(fold)
            query = EventQuery((fold.item,))
            kept = self._cached[fold] = _CachedState(query, state, upto, self._era, self._pending.last_sent, state)
            self._by_tag.setdefault(tag_of_fold(fold), {})[fold] = kept
            kept.events = events if cached is None else max(events, cached.events)
            if kept.events >= self._snapshot_after and upto == newest.position:
                self._offer(fold, kept, upto, newest.digest)
        self._evict()

    def pin(self, folds: Iterable[Fold]) -> None:
        """Keep these folds in the cache, however small it is, until `unpin`."""
        for fold in folds:
            self._pinned[fold] = self._pinned.get(fold, 0) + 1

    def unpin(self, folds: Iterable[Fold]) -> None:
        """Let these folds go again."""
        for fold in folds:
            self._pinned[fold] -= 1
            if not self._pinned[fold]:
                del self._pinned[fold]
        self._evict()

    def _evict(self) -> None:
        while len(self._cached) > max(self._size, len(self._pinned)):
            oldest = next((fold for fold in self._cached if fold not in self._pinned), None)
            if oldest is None:
                return
            self._forget(oldest)

    def _forget(self, fold: Fold) -> None:
        self._cached.pop(fold, None)
        tag = tag_of_fold(fold)
        of_tag = self._by_tag.get(tag)
        if of_tag is not None:
            of_tag.pop(fold, None)
            if not of_tag:
                del self._by_tag[tag]

    def _with_tags(self, tags: Iterable[str]) -> Iterator[_CachedState]:
        for tag in tags:
            yield from self._by_tag.get(tag, {}).values()
