"""The follower of one partition of a read model: it folds pages into rows, and saves them with the checkpoint."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from twofold.domain.event_query import NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, InvalidMessage, Unavailable, WiringError
from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import (
    Change,
    Checkpoint,
    CorruptRow,
    Parked,
    RawRow,
    ReadModel,
    ReadStore,
    VersionedRow,
)
from twofold.synchronization.folding import FoldFailed, KeyedEvents, Rows, events_by_key
from twofold.synchronization.follower import Skips, error_text
from twofold.synchronization.key_event_reader import KeyEventReader
from twofold.synchronization.key_repair import OTHER_TAG, refold
from twofold.synchronization.mass_failure import Breaker, MassFailure
from twofold.world import World, microseconds
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)

_PAGE = 1_000


class ProjectorIO(NamedTuple):
    """What a projector reads from, decodes with, and writes to."""

    write_store: WriteStore
    read_store: ReadStore
    decode: Callable[[RecordedEvent], Any]
    world: World


class ProjectorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`skips` are the events, by key and position, that operators skipped.

    `cached_rows` is the number of rows to keep in memory. `retry_parked`: whether to retry parked keys at the start.
    `breaker_keys` and `breaker_share` are those of `Breaker`.
    """

    skips: Skips = frozenset()
    cached_rows: int = 20_000
    retry_parked: bool = True
    breaker_keys: int = 0
    breaker_share: float = 1.0


class Projector:
    """Keeps the rows of one partition equal to the fold of the log at its checkpoint, as long as it holds the lease.

    `epoch` is that of the lease: once a later owner has saved, the store refuses what an earlier one saves.
    """

    def __init__(
        self,
        projection: BoundProjection,
        model: ReadModel,
        io: ProjectorIO,
        partition: Partition = WHOLE,
        epoch: int = 0,
        options: ProjectorOptions | None = None,
    ) -> None:
        options = options or ProjectorOptions()
        self.name = projection.name
        self.query = EventQuery((QueryItem(projection.types),))
        self._projection = projection
        self._model = model
        self._write_store, self._read_store, self._decode, self._world = io
        self._partition = partition
        self._epoch = epoch
        self._skips = options.skips
        self._retry_parked = options.retry_parked
        self._events = KeyEventReader(projection, io.write_store, io.decode)
        self._rows = Rows(projection, model, io.read_store, options.cached_rows)
        self._parked: dict[str, Parked] = {}
        self._blocking: dict[str, Parked] = {}
        self._to_retry: list[str] = []
        self._skips_to_apply: list[tuple[str, Position]] = []
        self._stamp = ""
        self._breaker = Breaker(options.breaker_keys, options.breaker_share)

    async def open(self) -> Position:
        self._rows.forget()
        checkpoint = await self._checkpoint()
        progress = checkpoint.progress
        await self._refuse_other_history(progress.position, progress.stamp)
        self._stamp = progress.stamp
        known = {parked.key: parked for parked in progress.parked}
        # A key that is parked beyond the checkpoint fails again on the way there, unless the partition waits for it.
        beyond = {key for key, parked in known.items() if parked.position > progress.position}
        self._blocking = {key: known[key] for key in beyond} if self._projection.parks == "partition" else {}
        self._parked = {key: parked for key, parked in known.items() if key not in beyond}
        # From here on no earlier owner can save: the store has seen this lease.
        await self._write({}, dict.fromkeys(beyond - self._blocking.keys()), progress.position, progress.position)
        if not progress.position:
            self._rows.start_empty()
        # The code may be fixed by now. A key whose event an operator has skipped goes on in any case.
        again = [p for p in self._parked.values() if self._retry_parked or (p.key, p.position) in self._skips]
        self._to_retry = [parked.key for parked in sorted(again, key=lambda p: p.position, reverse=True)]
        return progress.position

    async def apply(self, page: Slice, before: Position) -> None:
        await self._save(page, before, {})

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        (recorded,) = page.events
        if self._projection.parks == "partition":
            await self._block_partition(recorded, before, error, error)
            raise error
        if (reason := self._breaker.stops()) is not None:
            failure = MassFailure(f"{reason}. The last one: {error_text(error.__cause__ or error)}")
            await self._block_partition(recorded, before, error, failure)
            raise failure from error
        parking: dict[str, Parked] = {}
        while True:
            fresh = {key: self._to_park(key, recorded, error) for key in self._failed(recorded, error, parking)}
            if not fresh:
                raise error
            parking |= fresh
            try:
                await self._save(page, before, parking)
                return
            except (Conflict, Unavailable):
                raise
            except Exception as another:
                log.exception("%s: position %d fails for more keys", self.name, recorded.position)
                error = another

    async def retry(self, key: str, at: Position) -> str:
        if key in self._blocking:
            return "It is retried now."
        parked = self._parked.get(key)
        if parked is None:
            raise InvalidMessage(f"The key '{key}' of '{self.name}' is not parked.", field="key")
        still = await self._retry_key(parked, at)
        return "It is up to date." if still is None else f"It is parked at position {still.position}: {still.error}"

    async def repair(self, key: str, at: Position) -> str:
        if key in self._blocking:
            raise InvalidMessage(f"The key '{key}' of '{self.name}' is parked. Retry or skip it first.", field="key")
        if not self._partition.holds(key):
            raise InvalidMessage(f"The key '{key}' is not in the partition {self._partition.name}.", field="key")
        # Inspected, not loaded: a row that cannot be read needs the repair most.
        stored = (await self._read_store.inspect(self._model, [key])).get(key, RawRow(None, 0))
        row, failed, waiting = await refold(self._projection, self._events, key, stored, at, self._skips)
        parked, still = self._parked.get(key), None
        if failed is not None:
            cause = error_text(failed.__cause__ or failed)
            if parked is None:
                raise InvalidMessage(
                    f"The key '{key}' of '{self.name}' cannot be folded: its event at {failed.position} fails with "
                    f"{cause}. Fix the fold first.",
                    field="key",
                ) from failed
            still = replace(parked, position=failed.position, error=cause, waiting=waiting, upto=at)
        if row is not None or parked is not None:
            await self._write({} if row is None else {key: row}, {} if parked is None else {key: still}, at, at)
            self._parked.pop(key, None)
            self._parked |= {} if still is None else {key: still}
        outcome = "The row was right already." if row is None else "The row is repaired."
        return outcome if still is None else f"{outcome} Its key is parked at position {still.position}: {still.error}"

    def add_skips(self, skips: Skips) -> None:
        self._skips_to_apply += [(key, at) for key, at in skips - self._skips if self._partition.holds(key)]
        self._skips |= skips

    def parked_at(self, key: str) -> Position | None:
        parked = self._blocking.get(key) or self._parked.get(key)
        return None if parked is None or (key, parked.position) in self._skips else parked.position

    async def parked(self) -> tuple[Parked, ...]:
        return tuple((self._parked | self._blocking).values())

    async def retry_pending(self, at: Position) -> float | None:
        if self._skips_to_apply:
            # `add_skips` may add to the list meanwhile.
            first = self._skips_to_apply[0]
            await self._attempt(first[0], lambda: self._apply_skip(*first, at))
            self._skips_to_apply.remove(first)
        elif self._to_retry:
            if (parked := self._parked.get(self._to_retry[-1])) is not None:
                await self._attempt(parked.key, lambda: self._retry_key(parked, at))
            self._to_retry.pop()
        return 0.0 if self._skips_to_apply or self._to_retry else None

    async def close(self) -> None:
        return None

    # ----------------------------------------------------------------------------------------------------- at the start

    async def _checkpoint(self) -> Checkpoint:
        here = (self.name, self._model.generation, self._partition)
        for checkpoint in await self._read_store.checkpoints():
            if (checkpoint.name, checkpoint.generation, checkpoint.partition) == here:
                return checkpoint
        raise Conflict(
            f"'{self.name}' has no partition {self._partition.name} in generation {self._model.generation} any more."
        )

    async def _refuse_other_history(self, position: Position, stamp: str) -> None:
        head = (await self._write_store.read(NO_EVENTS)).head
        here = self._write_store.identity
        if position and (not here.holds(stamp, position) or position > head):
            raise WiringError(
                f"The read model '{self.name}' is at position {position} of the log {stamp}, but this log is "
                f"{here.stamp} with {head} events, and does not hold that position. Delete the read database "
                "(Twofold builds it again), or correct the URL of the read store."
            )

    # --------------------------------------------------------------------------------------------------- page by page

    async def _save(self, page: Slice, before: Position, parking: Mapping[str, Parked]) -> None:
        decoded = await self._decoded(page.events)
        work = events_by_key(self._projection, page.events, decoded)
        if self._partition != WHOLE:
            work = work.where(self._partition.holds)
        parked: dict[str, Parked | None] = {**parking, **dict.fromkeys(self._blocking)}
        if parking or self._parked:
            work = self._without_parked(work, parked, parking)
        changed = await self._rows.fold(work, self._skips) if work else {}
        await self._write(changed, parked, before, page.upto)
        self._parked |= {key: each for key, each in parked.items() if each is not None}
        self._blocking = {}
        self._breaker.count(folded=len(changed), parked=len(parking))

    async def _decoded(self, events: Sequence[RecordedEvent]) -> list[Any]:
        """The events in their present shape. On a large page, other tasks of this loop have a turn in between."""
        decode = self._decode
        decoded: list[Any] = []
        for start in range(0, len(events), _PAGE):
            if start:
                await self._world.sleep(0)
            decoded += [decode(recorded) for recorded in events[start : start + _PAGE]]
        return decoded

    def _without_parked(
        self, work: KeyedEvents, parked: dict[str, Parked | None], parking: Mapping[str, Parked]
    ) -> KeyedEvents:
        """The work on keys that are not parked. What waits behind the others is counted in `parked`."""
        left = KeyedEvents([], [], [])
        for recorded, event, key in work:
            if key in parking:
                continue
            waiting = parked.get(key) or self._parked.get(key)
            if waiting is None:
                left.add(recorded, event, key)
            elif recorded.position > max(waiting.position, waiting.upto):
                parked[key] = replace(waiting, waiting=waiting.waiting + 1, upto=recorded.position)
        return left

    async def _write(
        self, rows: dict[str, VersionedRow], parked: Mapping[str, Parked | None], before: Position, position: Position
    ) -> None:
        now = microseconds(self._world.now())
        stamp = self._write_store.identity.stamp
        change = Change(
            self._model,
            stamp,
            before,
            position,
            now,
            rows,
            parked,
            previous_stamp=self._stamp,
            partition=self._partition,
            epoch=self._epoch,
        )
        try:
            await self._read_store.save(change)
        except BaseException:
            # It may have been saved, or not: the rows in memory may be older than the stored ones.
            self._rows.forget()
            raise
        self._stamp = stamp
        self._rows.saved(rows)

    # -------------------------------------------------------------------------------------------- what cannot be folded

    def _failed(self, recorded: RecordedEvent, error: Exception, parking: Mapping[str, Parked]) -> list[str]:
        """The keys that fail and are not parked yet."""
        if isinstance(error, FoldFailed):
            failed: Sequence[str] = (error.key,)
        else:
            # Saving failed, not the fold. Nothing says which key is the cause, so all keys of the event are parked.
            failed = [k for k in self._projection.keys(self._decode(recorded)) if self._partition.holds(k)]
        # A key that is parked at an earlier event stays parked there.
        return [key for key in failed if key not in parking and key not in self._parked]

    async def _block_partition(
        self, recorded: RecordedEvent, before: Position, error: Exception, reason: Exception
    ) -> None:
        """Save what the whole partition waits for, and the reason."""
        blocking = {key: self._to_park(key, recorded, reason) for key in self._failed(recorded, error, {})}
        known = {key: each.position for key, each in self._blocking.items()}
        if known != {key: each.position for key, each in blocking.items()}:
            await self._write({}, {**dict.fromkeys(self._blocking), **blocking}, before, before)
            self._blocking = blocking

    async def _attempt(self, key: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work, or leave the key as it is: a key that cannot be parked again must not block the others."""
        try:
            await work()
        except (Conflict, Unavailable):
            raise
        except Exception:
            log.exception("%s: the key '%s' stays as it is", self.name, key)

    async def _apply_skip(self, key: str, skipped: Position, at: Position) -> None:
        """Make the row of a key what it is without an event that is skipped from now on."""
        parked = self._parked.get(key)
        if parked is not None and parked.position == skipped:
            await self._retry_key(parked, at)
        elif skipped <= at and (parked is None or parked.position > skipped):
            # This generation folded the event: before the skip was on record, or because it fails in another one only.
            try:
                await self.repair(key, at)
            except InvalidMessage as error:
                log.warning("%s: the event at %d is not skipped for '%s': %s", self.name, skipped, key, error)

    async def _retry_key(self, parked: Parked, at: Position) -> Parked | None:
        """Fold a parked key up to the checkpoint, and unpark it. If it fails again: how it is parked now."""
        key = parked.key
        work = await self._events.of(key, parked.position - 1, at)
        if not work.recorded or work.recorded[0].position != parked.position:
            # A search by tag does not find the event. Without this check it would be skipped in silence.
            unfindable = LookupError(OTHER_TAG.format(key=key, position=parked.position))
            return await self._repark(parked, parked.position, unfindable, work, {}, at)
        try:
            try:
                await self._unpark(key, await self._folded_again(key, work), at)
                return None
            except FoldFailed as failed:
                done = work.before(failed.position)
                changed = await self._folded_again(key, done) if done else {}
                return await self._repark(parked, failed.position, failed.__cause__ or failed, work, changed, at)
        except (Conflict, Unavailable):
            raise
        except Exception:
            # Saving failed, not the fold: one of the rows cannot be stored. Save them one by one.
            log.exception("%s: the key '%s' is saved step by step", self.name, key)
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
        await self._unpark(parked.key, {}, at)
        return None

    async def _folded_again(self, key: str, work: KeyedEvents) -> dict[str, VersionedRow]:
        try:
            return await self._rows.fold(work, self._skips)
        except CorruptRow as error:
            raise FoldFailed(key, work.recorded[0].position, error) from error

    async def _unpark(self, key: str, changed: dict[str, VersionedRow], at: Position) -> None:
        await self._write(changed, {key: None}, at, at)
        del self._parked[key]

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
        await self._write(changed, {parked.key: still}, at, at)
        self._parked[parked.key] = still
        return still

    def _to_park(self, key: str, recorded: RecordedEvent, error: Exception) -> Parked:
        return Parked(key, recorded.position, error_text(error.__cause__ or error), microseconds(self._world.now()))
