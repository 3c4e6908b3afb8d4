"""In charge of one partition of one projection's generation: pages folded into rows, saved with the checkpoint."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

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
from twofold.synchronization.folding import ABSENT, FoldFailed, KeyedEvents, Rows, events_by_key, fold_all
from twofold.synchronization.follower import Skips, error_text
from twofold.synchronization.key_events import KeyEvents
from twofold.world import World, microseconds
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)

_PAGE = 1_000
_OTHER_TAG = (
    "The event at {position} touches the key '{key}', but is not stored under its tag: an upcaster changes the value. "
    "Run `twofold reindex`, then retry."
)


class Projector:
    """Keeps the rows of one partition equal to the fold of the log at its checkpoint, as long as it holds the lease.

    `epoch` is that of the lease: the store refuses what an earlier one still wants to save. `skips` are the events, by
    key and position, that an operator has said to skip. `retry_parked`: whether to retry parked keys at the start.
    """

    kind: Literal["projection", "policy"] = "projection"

    def __init__(
        self,
        projection: BoundProjection,
        model: ReadModel,
        write_store: WriteStore,
        read_store: ReadStore,
        decode: Callable[[RecordedEvent], Any],
        world: World,
        *,
        partition: Partition = WHOLE,
        epoch: int = 0,
        skips: Skips = frozenset(),
        cached_rows: int = 20_000,
        retry_parked: bool = True,
    ) -> None:
        self.name = projection.name
        self.query = EventQuery((QueryItem(projection.types),))
        self.partition = partition
        self.generation = model.generation
        self._projection = projection
        self._model = model
        self._write_store = write_store
        self._read_store = read_store
        self._decode = decode
        self._world = world
        self._epoch = epoch
        self._skips = skips
        self._retry_parked = retry_parked
        self._events = KeyEvents(projection, write_store, decode)
        self._rows = Rows(projection, model, read_store, cached_rows)
        self._parked: dict[str, Parked] = {}
        self._blocking: dict[str, Parked] = {}
        self._to_retry: list[str] = []
        self._skips_to_apply: list[tuple[str, Position]] = []
        self._stamp = ""

    async def open(self) -> Position:
        self._rows.forget()
        checkpoint = await self._checkpoint()
        progress = checkpoint.progress
        await self._refuse_other_history(progress.position, progress.log)
        self._stamp = progress.log
        known = {parked.key: parked for parked in progress.parked}
        # What was parked beyond the checkpoint is found again on the way there, unless it is what all wait behind.
        beyond = {key for key, parked in known.items() if parked.position > progress.position}
        self._blocking = {key: known[key] for key in beyond} if self._projection.parks == "partition" else {}
        self._parked = {key: parked for key, parked in known.items() if key not in beyond}
        # From here on no earlier owner can save: the store has seen this lease.
        await self._write({}, dict.fromkeys(beyond - self._blocking.keys()), progress.position, progress.position)
        if not progress.position:
            self._rows.start_empty()
        # The code may have been mended since. What an operator has passed over goes on in any case.
        again = [
            each for each in self._parked.values() if self._retry_parked or (each.key, each.position) in self._skips
        ]
        self._to_retry = [each.key for each in sorted(again, key=lambda each: each.position, reverse=True)]
        return progress.position

    async def apply(self, page: Slice, before: Position) -> None:
        await self._save(page, before, {})

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        (recorded,) = page.events
        if self._projection.parks == "partition":
            await self._block_partition(recorded, before, error)
            raise error
        aside: dict[str, Parked] = {}
        while True:
            fresh = {key: self._to_park(key, recorded, error) for key in self._failed(recorded, error, aside)}
            if not fresh:
                raise error
            aside |= fresh
            try:
                await self._save(page, before, aside)
                return
            except (Conflict, Unavailable):
                raise
            except Exception as another:
                log.exception("%s: position %d fails for more keys", self.name, recorded.position)
                error = another

    async def repair(self, key: str, at: Position) -> str:
        return await self._repair(key, at)

    async def retry(self, key: str, at: Position) -> str:
        if key in self._blocking:
            return "It is tried again now."
        parked = self._parked.get(key)
        if parked is None:
            raise InvalidMessage(f"The key '{key}' of '{self.name}' is not parked.", field="key")
        still = await self._retry_key(parked, at)
        return "It is up to date." if still is None else f"It is parked at position {still.position}: {still.error}"

    def add_skips(self, skips: Skips) -> None:
        self._skips_to_apply += [(key, at) for key, at in skips - self._skips if self.partition.holds(key)]
        self._skips |= skips

    def parked_at(self, key: str) -> Position | None:
        """The position of the event that a `skip` of this key would pass over."""
        parked = self._blocking.get(key) or self._parked.get(key)
        return None if parked is None or (key, parked.position) in self._skips else parked.position

    async def parked(self) -> tuple[Parked, ...]:
        return tuple((self._parked | self._blocking).values())

    async def retry_pending(self, at: Position) -> float | None:
        if self._skips_to_apply:
            # Others may come to it meanwhile.
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
        for each in await self._read_store.checkpoints():
            if (each.name, each.generation, each.partition) == (self.name, self.generation, self.partition):
                return each
        raise Conflict(
            f"'{self.name}' has no partition {self.partition.name} in generation {self.generation} any more."
        )

    async def _refuse_other_history(self, position: Position, stamp: str) -> None:
        head = (await self._write_store.read(NO_EVENTS)).head
        here = self._write_store.identity
        if position and (not here.holds(stamp, position) or position > head):
            raise WiringError(
                f"The read model '{self.name}' stands at position {position} of the log {stamp}, but the log is "
                f"{here.stamp} with {head} events and does not hold that position. Delete the read database "
                "(it is built anew), or name it right."
            )

    # --------------------------------------------------------------------------------------------------- page by page

    async def _save(self, page: Slice, before: Position, aside: Mapping[str, Parked]) -> None:
        decoded = await self._decoded(page.events)
        work = events_by_key(self._projection, page.events, decoded)
        if self.partition != WHOLE:
            work = work.where(self.partition.holds)
        parked: dict[str, Parked | None] = {**aside, **dict.fromkeys(self._blocking)}
        if aside or self._parked:
            work = self._without_parked(work, parked, aside)
        changed = await self._rows.fold(work, self._skips) if work else {}
        await self._write(changed, parked, before, page.upto)
        self._parked |= {key: each for key, each in parked.items() if each is not None}
        self._blocking = {}

    async def _decoded(self, events: Sequence[RecordedEvent]) -> list[Any]:
        """The events in their present shape. Others on this loop have their turn in the midst of a large page."""
        decode = self._decode
        found: list[Any] = []
        for start in range(0, len(events), _PAGE):
            if start:
                await self._world.sleep(0)
            found += [decode(each) for each in events[start : start + _PAGE]]
        return found

    def _without_parked(
        self, work: KeyedEvents, parked: dict[str, Parked | None], aside: Mapping[str, Parked]
    ) -> KeyedEvents:
        """The work on keys that are not set aside; what waits behind the others is counted in `parked`."""
        left = KeyedEvents([], [], [])
        for recorded, event, key in work:
            if key in aside:
                continue
            waiting = parked.get(key) or self._parked.get(key)
            if waiting is None:
                left.add(recorded, event, key)
            elif recorded.position > max(waiting.position, waiting.upto):
                parked[key] = msgspec.structs.replace(waiting, waiting=waiting.waiting + 1, upto=recorded.position)
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
            was=self._stamp,
            partition=self.partition,
            epoch=self._epoch,
        )
        try:
            await self._read_store.save(change)
        except BaseException:
            # Whether it was saved is unknown: what is in memory may be older than what is kept.
            self._rows.forget()
            raise
        self._stamp = stamp
        self._rows.saved(rows)

    # -------------------------------------------------------------------------------------------- what cannot be folded

    def _failed(self, recorded: RecordedEvent, error: Exception, aside: Mapping[str, Parked]) -> list[str]:
        """The keys that fail and are not set aside yet."""
        if isinstance(error, FoldFailed):
            failed: Sequence[str] = (error.key,)
        else:
            # Not the fold but the saving failed: no key can be told from another, so all of the event's keys wait.
            failed = [k for k in self._projection.keys(self._decode(recorded)) if self.partition.holds(k)]
        # What waits behind an earlier event goes on waiting there.
        return [key for key in failed if key not in aside and key not in self._parked]

    async def _block_partition(self, recorded: RecordedEvent, before: Position, error: Exception) -> None:
        """Put on record what the whole partition waits behind."""
        halted = {key: self._to_park(key, recorded, error) for key in self._failed(recorded, error, {})}
        known = {key: each.position for key, each in self._blocking.items()}
        if known != {key: each.position for key, each in halted.items()}:
            await self._write({}, {**dict.fromkeys(self._blocking), **halted}, before, before)
            self._blocking = halted

    async def _attempt(self, key: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do it, or leave the key as it is: what cannot even be parked anew is to keep nobody else waiting."""
        try:
            await work()
        except (Conflict, Unavailable):
            raise
        except Exception:
            log.exception("%s: the key '%s' stays as it is", self.name, key)

    async def _apply_skip(self, key: str, skipped: Position, at: Position) -> None:
        """Let the row of a key be what it is without an event that is passed over from now on."""
        parked = self._parked.get(key)
        if parked is not None and parked.position == skipped:
            await self._retry_key(parked, at)
        elif skipped <= at and (parked is None or parked.position > skipped):
            # Folded before: on its way while it was put on record, or only in the generation of the one who said so.
            try:
                await self._repair(key, at)
            except InvalidMessage as error:
                log.warning("%s: %d is not left out of '%s': %s", self.name, skipped, key, error)

    async def _retry_key(self, parked: Parked, at: Position) -> Parked | None:
        """Fold a parked key up to the checkpoint, and free it. Where it fails again it stands, and that is told."""
        key = parked.key
        work = await self._events.of(key, parked.position - 1, at)
        if not work.recorded or work.recorded[0].position != parked.position:
            # By its tag it would be passed over without a word.
            lost = LookupError(_OTHER_TAG.format(key=key, position=parked.position))
            return await self._repark(parked, parked.position, lost, work, {}, at)
        try:
            try:
                await self._free(key, await self._folded_again(key, work), at)
                return None
            except FoldFailed as failed:
                done = work.before(failed.position)
                changed = await self._folded_again(key, done) if done else {}
                return await self._repark(parked, failed.position, failed.__cause__ or failed, work, changed, at)
        except (Conflict, Unavailable):
            raise
        except Exception:
            # Not the fold failed, but the saving: one of its rows cannot be kept. They are made one by one.
            log.exception("%s: '%s' is folded step by step", self.name, key)
            return await self._step_by_step(parked, work, at)

    async def _step_by_step(self, parked: Parked, work: KeyedEvents, at: Position) -> Parked | None:
        for recorded, event, key in work:
            try:
                changed = await self._folded_again(key, KeyedEvents([recorded], [event], [key]))
                parked = await self._repark(parked, recorded.position, None, work, changed, at)
            except (Conflict, Unavailable):
                raise
            except Exception as error:  # noqa: BLE001 - it is kept with the key
                cause = error.__cause__ if isinstance(error, FoldFailed) and error.__cause__ else error
                return await self._repark(parked, recorded.position, cause, work, {}, at)
        await self._free(parked.key, {}, at)
        return None

    async def _folded_again(self, key: str, work: KeyedEvents) -> dict[str, VersionedRow]:
        try:
            return await self._rows.fold(work, self._skips)
        except CorruptRow as error:
            raise FoldFailed(key, work.recorded[0].position, error) from error

    async def _free(self, key: str, changed: dict[str, VersionedRow], at: Position) -> None:
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
        """Save how far a parked key has come, and what it waits for now."""
        left = len({each.position for each in work.recorded if each.position > position})
        cause = parked.error if error is None else error_text(error)
        still = msgspec.structs.replace(parked, position=position, error=cause, waiting=left, upto=at)
        await self._write(changed, {parked.key: still}, at, at)
        self._parked[parked.key] = still
        return still

    async def _repair(self, key: str, at: Position) -> str:
        """Fold a key from its first event, whatever row is there, and keep that as a repaired version."""
        if key in self._blocking:
            raise InvalidMessage(f"The key '{key}' of '{self.name}' is parked. Retry or skip it first.", field="key")
        if not self.partition.holds(key):
            raise InvalidMessage(f"The key '{key}' is not in the partition {self.partition.name}.", field="key")
        # Not loaded as a row: one that nobody can read is to be repaired all the more.
        there = (await self._read_store.inspect(self._model, [key])).get(key, RawRow(None, 0))
        work = await self._events.of(key, 0, at)
        if there.position not in {each.position for each in work.recorded} and await self._events.touch(
            there.position, key
        ):
            raise InvalidMessage(_OTHER_TAG.format(key=key, position=there.position), field="key")
        parked, still = self._parked.get(key), None
        try:
            folded = fold_all(self._projection, work, {}, self._skips)
        except FoldFailed as failed:
            cause = failed.__cause__ or failed
            if parked is None:
                raise InvalidMessage(
                    f"The key '{key}' of '{self.name}' cannot be folded, its event at {failed.position} fails: "
                    f"{error_text(cause)}. Mend the fold first.",
                    field="key",
                ) from failed
            left = len({each.position for each in work.recorded if each.position > failed.position})
            still = msgspec.structs.replace(
                parked, position=failed.position, error=error_text(cause), waiting=left, upto=at
            )
            folded = fold_all(self._projection, work.before(failed.position), {}, self._skips)
        right = folded.get(key, ABSENT)
        same = right.row is None or right.position == there.position
        changed: dict[str, VersionedRow] = {}
        if not same or there.corruption or _written(right.row) != _written(there.row):
            states = (*right.previous_rows, *self._as_row(there.row))
            changed = {key: VersionedRow(right.row, max(right.position, 1), there.repair + 1, states)}
        if changed or parked is not None:
            await self._write(changed, {} if parked is None else {key: still}, at, at)
            self._parked.pop(key, None)
            self._parked |= {} if still is None else {key: still}
        outcome = "The row is repaired." if changed else "The row was right already."
        return outcome if still is None else f"{outcome} Its key is parked at position {still.position}: {still.error}"

    def _as_row(self, stored: Any | None) -> list[Any]:
        """The row that is there, so that all its copies are found; none where it fits no row."""
        if stored is None:
            return []
        try:
            return [msgspec.convert(stored, self._projection.row)]
        except msgspec.ValidationError as error:
            log.warning("%s: what is repaired was no row: %s", self.name, error)
            return []

    def _to_park(self, key: str, recorded: RecordedEvent, error: Exception) -> Parked:
        return Parked(key, recorded.position, error_text(error.__cause__ or error), microseconds(self._world.now()))


def _written(row: Any | None) -> bytes:
    """A row, or the JSON data of one, so that equal ones are equal byte by byte: 1, 1.0 and true are not."""
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(row)), order="deterministic")
