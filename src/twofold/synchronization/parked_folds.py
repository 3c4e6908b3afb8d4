"""The parked keys and events of one partition of a read model: folded again, skipped, and repaired."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, InvalidMessage, Unavailable
from twofold.read_store.partition import ParkedEvent, Partition, parked_event
from twofold.read_store.port import CorruptRow, Parked, RawRow, ReadModel, ReadStore, VersionedRow
from twofold.synchronization.event_parking import divided, events_among, events_skipped, fold_late
from twofold.synchronization.folding import FoldFailed, KeyedEvents, Rows
from twofold.synchronization.follower import Skips, error_text, not_parked
from twofold.synchronization.key_event_reader import KeyEventReader
from twofold.synchronization.key_repair import OTHER_TAG, refold
from twofold.world import World, microseconds

log = logging.getLogger(__name__)


class Write(Protocol):
    """Saves rows and parked keys (None: not parked any more) with the checkpoint, which was `before`."""

    def __call__(
        self, rows: dict[str, VersionedRow], parked: Mapping[str, Parked | None], before: Position, position: Position
    ) -> Awaitable[None]: ...


class PartitionParts(NamedTuple):
    """What a partition of a read model is folded with."""

    projection: BoundProjection
    model: ReadModel
    read_store: ReadStore
    partition: Partition
    events: KeyEventReader
    rows: Rows
    world: World


class ParkedFolds:
    """What is parked in one partition.

    `parked` are the keys and events that the partition has passed, `blocking` those that it waits for. `skips` are the
    events, by key and position, that operators skipped; `skipped` are the positions that are skipped for all keys.
    """

    def __init__(self, parts: PartitionParts, skips: Skips, write: Write) -> None:
        self.parked: dict[str, Parked] = {}
        self.blocking: dict[str, Parked] = {}
        self.skips = skips
        self._parts = parts
        self._name = parts.projection.name
        self._write = write
        self.skipped: frozenset[Position] = frozenset()
        self._to_retry: list[str] = []
        self._skips_to_apply: list[tuple[str, Position]] = []

    def open(self, parked: dict[str, Parked], blocking: dict[str, Parked], *, retry: bool) -> None:
        """Take what is parked by the read store. `retry`: whether to retry it without a request."""
        self.parked, self.blocking = parked, blocking
        # The code may be fixed by now. A key whose event an operator has skipped goes on in any case.
        again = [each for each in parked.values() if retry or self._is_skipped(each)]
        self._to_retry = [each.key for each in sorted(again, key=lambda each: each.position, reverse=True)]
        self._leave_out()

    def passed(self, parked: Mapping[str, Parked | None]) -> None:
        """Take note of what was saved with a page: nothing blocks the partition any more."""
        self.parked |= {key: each for key, each in parked.items() if each is not None}
        self.blocking = {}
        if events_among(parked):
            self._leave_out()

    def to_park(self, key: str, position: Position, error: BaseException) -> Parked:
        """A key as it is parked now, at an event that it fails at."""
        return Parked(key, position, error_text(error.__cause__ or error), microseconds(self._parts.world.now()))

    def event_to_park(self, position: Position, error: BaseException) -> dict[str, Parked]:
        """An event as it is parked for all keys of the partition, by its name."""
        key = ParkedEvent(position, self._parts.partition).key
        return {key: self.to_park(key, position, error)}

    async def retry(self, key: str, at: Position) -> str:
        """See `ParkedWork.retry`."""
        parked = self._named(key)
        if parked is None:
            known = [*(self.parked | self.blocking).values()]
            raise InvalidMessage(not_parked(self._name, key, known), field="key")
        if parked.key in self.blocking:
            return "It is retried now."
        still = await self._retry(parked, at)
        return "It is up to date." if still is None else f"It is parked at position {still.position}: {still.error}"

    async def repair(self, key: str, at: Position) -> str:
        """See `ParkedWork.repair`."""
        projection, model, read_store, partition, events, _, _ = self._parts
        if key in self.blocking or (parked_event(key) and self._named(key) is not None):
            raise InvalidMessage(f"The key '{key}' of '{self._name}' is parked. Retry or skip it first.", field="key")
        if not partition.holds(key):
            raise InvalidMessage(f"The key '{key}' is not in the partition {partition.name}.", field="key")
        # Inspected, not loaded: a row that cannot be read needs the repair most.
        stored = (await read_store.inspect(model, [key])).get(key, RawRow(None, 0))
        row, failed, waiting = await refold(projection, events, key, stored, at, self.skips)
        parked, still = self.parked.get(key), None
        if failed is not None:
            cause = error_text(failed.__cause__ or failed)
            if parked is None:
                raise InvalidMessage(
                    f"The key '{key}' of '{self._name}' cannot be folded: its event at {failed.position} fails with "
                    f"{cause}. Fix the fold first.",
                    field="key",
                ) from failed
            still = replace(parked, position=failed.position, error=cause, waiting=waiting, upto=at)
        if row is not None or parked is not None:
            await self._save({} if row is None else {key: row}, {} if parked is None else {key: still}, at)
        outcome = "The row was right already." if row is None else "The row is repaired."
        return outcome if still is None else f"{outcome} Its key is parked at position {still.position}: {still.error}"

    def add_skips(self, skips: Skips) -> None:
        """See `ParkedWork.add_skips`. An event that is skipped by position is skipped in every partition."""
        holds, new = self._parts.partition.holds, skips - self.skips
        self._skips_to_apply += [(key, at) for key, at in new if parked_event(key) or holds(key)]
        self.skips |= skips
        self._leave_out()

    def parked_at(self, key: str) -> Position | None:
        """See `ParkedWork.parked_at`."""
        parked = self._named(key)
        return None if parked is None or self._is_skipped(parked) else parked.position

    async def divide(self, parts: Sequence[Partition], at: Position) -> None:
        """Prepare a split of the partition: each part gets its own record of the events that are parked."""
        for known in (self.parked, self.blocking):
            if changes := divided(known.values(), parts):
                await self._write({}, changes, at, at)
                _change(known, changes)
        self._leave_out()

    async def retry_pending(self, at: Position) -> float | None:
        """See `Follower.retry_pending`."""
        if self._skips_to_apply:
            # `add_skips` may add to the list meanwhile.
            first = self._skips_to_apply[0]
            await self._attempt(first[0], lambda: self._apply_skip(*first, at))
            self._skips_to_apply.remove(first)
        elif self._to_retry:
            if (parked := self.parked.get(self._to_retry[-1])) is not None:
                await self._attempt(parked.key, lambda: self._retry(parked, at))
            self._to_retry.pop()
        return 0.0 if self._skips_to_apply or self._to_retry else None

    # ------------------------------------------------------------------------------------------------- what is known

    def _named(self, key: str) -> Parked | None:
        """What is parked under a name. The name of an event may lack the partition."""
        known, event = self.parked | self.blocking, parked_event(key)
        same = (each for each in known.values() if event and _is_event(each) and each.position == event.position)
        return known.get(key) or next(same, None)

    def _is_skipped(self, parked: Parked) -> bool:
        return parked.position in self.skipped or (parked.key, parked.position) in self.skips

    def _leave_out(self) -> None:
        skipped = events_skipped(self.skips)
        self.skipped = frozenset(event.position for event in skipped)
        self._parts.events.left_out = events_among(self.parked) | skipped

    async def _save(self, rows: dict[str, VersionedRow], parked: Mapping[str, Parked | None], at: Position) -> None:
        await self._write(rows, parked, at, at)
        _change(self.parked, parked)
        self._leave_out()

    # ------------------------------------------------------------------------------------------------ retries, skips

    async def _attempt(self, key: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work, or leave the key as it is: a key that cannot be parked again must not block the others."""
        try:
            await work()
        except (Conflict, Unavailable):
            raise
        except Exception:
            log.exception("%s: the key '%s' stays as it is", self._name, key)

    async def _apply_skip(self, key: str, skipped: Position, at: Position) -> None:
        """Make the row of a key what it is without an event that is skipped from now on."""
        if parked_event(key):
            await self._apply_event_skip(skipped, at)
            return
        parked = self.parked.get(key)
        if parked is not None and parked.position == skipped:
            await self._retry(parked, at)
        elif skipped <= at and (parked is None or parked.position > skipped):
            # This generation folded the event: before the skip was on record, or because it fails in another one only.
            await self._repair_without([key], skipped, at)

    async def _apply_event_skip(self, skipped: Position, at: Position) -> None:
        """Make all rows what they are without an event."""
        waiting = [each for each in self.parked.values() if each.position == skipped]
        for each in sorted(waiting, key=_is_event):
            await self._retry(each, at)
        if skipped <= at and not any(map(_is_event, waiting)):
            _, keys = await self._parts.events.keys_at(skipped)
            parked = {each.key for each in waiting}
            await self._repair_without((key for key in keys if key not in parked), skipped, at)

    async def _repair_without(self, keys: Iterable[str], skipped: Position, at: Position) -> None:
        for key in filter(self._parts.partition.holds, keys):
            try:
                await self.repair(key, at)
            except InvalidMessage as error:
                log.warning("%s: the event at %d is not skipped for '%s': %s", self._name, skipped, key, error)

    async def _retry(self, parked: Parked, at: Position) -> Parked | None:
        """Fold what is parked, and unpark it. If it fails again: how it is parked now."""
        event = parked_event(parked.key)
        return await (self._retry_key(parked, at) if event is None else self._retry_event(parked, event, at))

    async def _retry_event(self, parked: Parked, event: ParkedEvent, at: Position) -> Parked | None:
        """Fold the keys of an event again, from their first events. What fails with it is parked by key."""
        projection, model, read_store, _, events, _, _ = self._parts
        changes: dict[str, Parked | None] = {parked.key: None}
        rows: dict[str, VersionedRow] = {}
        try:
            if not self._is_skipped(parked):
                late = await fold_late(projection, events, (read_store, model), event, at, self.skips)
                rows = late.rows
                changes |= dict.fromkeys(key for key in late.keys if key in self.parked)
                for key, (error, waiting) in late.failed.items():
                    changes[key] = replace(self.to_park(key, error.position, error), waiting=waiting, upto=at)
            await self._save(rows, changes, at)
            return None
        except (Conflict, Unavailable):
            raise
        except Exception as error:
            log.exception("%s: the event at %d stays parked", self._name, parked.position)
            return await self._repark(
                parked, parked.position, error.__cause__ or error, KeyedEvents([], [], []), {}, at
            )

    async def _retry_key(self, parked: Parked, at: Position) -> Parked | None:
        """Fold a parked key up to the checkpoint."""
        key = parked.key
        work = await self._parts.events.of(key, parked.position - 1, at)
        first = work.recorded[0].position if work.recorded else 0
        if first != parked.position and not self._is_skipped(parked):
            # A search by tag does not find the event. Without this check it would be skipped in silence.
            unfindable = LookupError(OTHER_TAG.format(key=key, position=parked.position))
            return await self._repark(parked, parked.position, unfindable, work, {}, at)
        try:
            try:
                await self._save(await self._folded_again(key, work), {key: None}, at)
                return None
            except FoldFailed as failed:
                done = work.before(failed.position)
                changed = await self._folded_again(key, done) if done else {}
                return await self._repark(parked, failed.position, failed.__cause__ or failed, work, changed, at)
        except (Conflict, Unavailable):
            raise
        except Exception:
            # Saving failed, not the fold: one of the rows cannot be stored. Save them one by one.
            log.exception("%s: the key '%s' is saved step by step", self._name, key)
            return await self._step_by_step(parked, work, at)

    async def _step_by_step(self, parked: Parked, work: KeyedEvents, at: Position) -> Parked | None:
        for recorded, event, key in work:
            try:
                changed = await self._folded_again(key, KeyedEvents([recorded], [event], [key]))
                parked = await self._repark(parked, recorded.position, None, work, changed, at)
            except (Conflict, Unavailable):
                raise
            except Exception as error:  # noqa: BLE001 - it is saved with the key
                cause = error.__cause__ if isinstance(error, FoldFailed) and error.__cause__ else error
                return await self._repark(parked, recorded.position, cause, work, {}, at)
        await self._save({}, {parked.key: None}, at)
        return None

    async def _folded_again(self, key: str, work: KeyedEvents) -> dict[str, VersionedRow]:
        try:
            return await self._parts.rows.fold(work, self.skips)
        except CorruptRow as error:
            raise FoldFailed(key, work.recorded[0].position, error) from error

    async def _repark(
        self,
        parked: Parked,
        position: Position,
        error: BaseException | None,
        work: KeyedEvents,
        changed: dict[str, VersionedRow],
        at: Position,
    ) -> Parked:
        """Save how far a parked key has come, and the event it is parked at now."""
        left = len({recorded.position for recorded in work.recorded if recorded.position > position})
        cause = parked.error if error is None else error_text(error)
        still = replace(parked, position=position, error=cause, waiting=left, upto=at)
        await self._save(changed, {parked.key: still}, at)
        return still


def _is_event(parked: Parked) -> bool:
    return parked_event(parked.key) is not None


def _change(known: dict[str, Parked], changes: Mapping[str, Parked | None]) -> None:
    for key, each in changes.items():
        known.pop(key, None)
        if each is not None:
            known[key] = each
