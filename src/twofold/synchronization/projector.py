"""The follower of one partition of a read model: it folds pages into rows, and saves them with the checkpoint."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, Unavailable
from twofold.read_store.parked_summary import ParkedNames
from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import Change, Checkpoint, Parked, ReadModel, ReadStore, VersionedRow
from twofold.synchronization.event_parking import events_among
from twofold.synchronization.folding import (
    STEP,
    EventFailed,
    FoldFailed,
    KeyedEvents,
    Rows,
    decode_all,
    events_by_key,
    with_keys,
)
from twofold.synchronization.follower import Skips, error_text
from twofold.synchronization.key_event_reader import KeyEventReader
from twofold.synchronization.mass_failure import Breaker, MassFailure
from twofold.synchronization.parked_folds import ParkedFolds, PartitionParts
from twofold.world import World, microseconds
from twofold.write_store.history import HistoryCheck
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)


class ProjectorIO(NamedTuple):
    """What a projector reads from, decodes with, and writes to. `history` checks its checkpoint."""

    write_store: WriteStore
    read_store: ReadStore
    decode: Callable[[RecordedEvent], Any]
    world: World
    history: HistoryCheck


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
        self._write_store, self._read_store, self._decode, self._world, self._history = io
        self._partition = partition
        self._epoch = epoch
        self._retry_parked = options.retry_parked
        self._rows = Rows(projection, model, io.read_store, options.cached_rows, io.world)
        events = KeyEventReader(projection, io.write_store, io.decode)
        parts = PartitionParts(projection, model, io.read_store, partition, events, self._rows, io.world)
        self._retries = ParkedFolds(parts, options.skips, self._write)
        self._stamp = ""
        self._digest = ""
        self._names = ParkedNames()
        self._summary_is_saved = False
        self._breaker = Breaker(options.breaker_keys, options.breaker_share)

    async def open(self) -> Position:
        self._rows.forget()
        checkpoint = await self._checkpoint()
        progress = checkpoint.progress
        self._digest = await self._history.check(self.name, progress.stamp, progress.position)
        self._stamp = progress.stamp
        known = {parked.key: parked for parked in checkpoint.parked}
        self._names, self._summary_is_saved = ParkedNames(known), False
        # A key that is parked beyond the checkpoint fails again on the way there, unless the partition waits for it.
        beyond = {key for key, parked in known.items() if parked.position > progress.position}
        blocking = {key: known[key] for key in beyond} if self._projection.parks == "partition" else {}
        parked = {key: parked for key, parked in known.items() if key not in beyond}
        # From here on no earlier owner can save: the store has seen this lease.
        await self._write({}, dict.fromkeys(beyond - blocking.keys()), progress.position, progress.position)
        if not progress.position:
            self._rows.start_empty()
        self._retries.open(parked, blocking, retry=self._retry_parked)
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
            fresh = self._to_park(recorded, error, error, parking)
            # Nothing says which other key fails, or a key cannot be stored: the event is parked for all keys.
            parking = parking | fresh if fresh else self._retries.event_to_park(recorded.position, error)
            try:
                await self._save(page, before, parking)
                return
            except (Conflict, Unavailable):
                raise
            except Exception as another:
                if not fresh:
                    raise
                log.exception("%s: position %d fails for more keys", self.name, recorded.position)
                error = another

    async def retry(self, key: str, at: Position) -> str:
        return await self._retries.retry(key, at)

    async def repair(self, key: str, at: Position) -> str:
        return await self._retries.repair(key, at)

    def add_skips(self, skips: Skips) -> None:
        self._retries.add_skips(skips)

    def parked_at(self, key: str) -> Position | None:
        return self._retries.parked_at(key)

    async def parked(self) -> tuple[Parked, ...]:
        return tuple((self._retries.parked | self._retries.blocking).values())

    async def divide(self, parts: Sequence[Partition], at: Position) -> None:
        """Prepare a split into `parts`, at the checkpoint: each gets its own record of the events that are parked."""
        await self._retries.divide(parts, at)

    async def retry_pending(self, at: Position) -> float | None:
        return await self._retries.retry_pending(at)

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

    # --------------------------------------------------------------------------------------------------- page by page

    async def _save(self, page: Slice, before: Position, parking: Mapping[str, Parked]) -> None:
        left_out = self._retries.skipped | {event.position for event in events_among(parking)}
        events = [each for each in page.events if each.position not in left_out] if left_out else page.events
        work = await self._work(events)
        parked: dict[str, Parked | None] = {**parking, **dict.fromkeys(self._retries.blocking)}
        if parking or self._retries.parked:
            work = self._without_parked(work, parked, parking)
        changed = await self._rows.fold(work, self._retries.skips) if work else {}
        await self._write(changed, parked, before, page.upto, page.digest)
        self._retries.passed(parked)
        self._breaker.count(folded=len(changed), parked=len(parking))

    async def _work(self, events: Sequence[RecordedEvent]) -> KeyedEvents:
        """The events in their present shape, by the keys of this partition. Other tasks have turns meanwhile."""
        work = KeyedEvents([], [], [])
        for start in range(0, len(events), STEP):
            part = events[start : start + STEP]
            keyed = events_by_key(self._projection, part, decode_all(self._decode, part))
            work.extend(keyed if self._partition == WHOLE else keyed.where(self._partition.holds))
            await self._world.sleep(0)
        return work

    def _without_parked(
        self, work: KeyedEvents, parked: dict[str, Parked | None], parking: Mapping[str, Parked]
    ) -> KeyedEvents:
        """The work on keys that are not parked. What waits behind the others is counted in `parked`."""
        left = KeyedEvents([], [], [])
        for recorded, event, key in work:
            if key in parking:
                continue
            waiting = parked.get(key) or self._retries.parked.get(key)
            if waiting is None:
                left.add(recorded, event, key)
            elif recorded.position > max(waiting.position, waiting.upto):
                parked[key] = replace(waiting, waiting=waiting.waiting + 1, upto=recorded.position)
        return left

    async def _write(
        self,
        rows: dict[str, VersionedRow],
        parked: Mapping[str, Parked | None],
        before: Position,
        position: Position,
        digest: str | None = None,
    ) -> None:
        """Save. Without `digest` the checkpoint stays where it is, so that its digest is known."""
        now = microseconds(self._world.now())
        digest = self._digest if digest is None else digest
        stamp = self._write_store.identity.stamp(digest)
        names = self._names.changed(parked)
        changes = names is not self._names or not self._summary_is_saved
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
            summary=names.summary if changes else None,
        )
        try:
            await self._read_store.save(change)
        except BaseException:
            # It may have been saved, or not: the rows in memory may be older than the stored ones.
            self._rows.forget()
            self._summary_is_saved = False
            raise
        self._names, self._summary_is_saved = names, True
        self._stamp, self._digest = stamp, digest
        self._rows.saved(rows)

    # -------------------------------------------------------------------------------------------- what cannot be folded

    def _to_park(
        self, recorded: RecordedEvent, error: Exception, reason: Exception, parking: Mapping[str, Parked]
    ) -> dict[str, Parked]:
        """The keys that fail and are not parked yet, as they are to be parked for this reason."""
        if isinstance(error, FoldFailed):
            failed: Sequence[str] = (error.key,)
        else:
            # Saving failed, not the fold. Nothing says which key is the cause, so all keys of the event are parked.
            _, keys = with_keys(self._projection, recorded, decode_all(self._decode, [recorded])[0])
            failed = [k for k in keys or () if self._partition.holds(k)]
        # A key that is parked at an earlier event stays parked there.
        fresh = [key for key in failed if key not in parking and key not in self._retries.parked]
        return {key: self._retries.to_park(key, recorded.position, reason) for key in fresh}

    async def _block_partition(
        self, recorded: RecordedEvent, before: Position, error: Exception, reason: Exception
    ) -> None:
        """Save what the whole partition waits for, and the reason."""
        blocking = self._to_park(recorded, error, reason, {})
        if not blocking and isinstance(error, EventFailed):
            blocking = self._retries.event_to_park(recorded.position, reason)
        known = {key: each.position for key, each in self._retries.blocking.items()}
        if known != {key: each.position for key, each in blocking.items()}:
            await self._write({}, {**dict.fromkeys(self._retries.blocking), **blocking}, before, before)
            self._retries.blocking = blocking
