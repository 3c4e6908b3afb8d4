"""In charge of one partition of one projection's generation: pages folded into rows, saved with the checkpoint."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from twofold.domain.event_query import NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, InvalidMessage, Unavailable, WiringError
from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import Change, Checkpoint, Kept, Parked, ReadModel, Stored, WholeReadStore
from twofold.synchronization.folding import ABSENT, FoldFailed, Rows, Touches, fold_all, touched
from twofold.synchronization.follower import Skips, told
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
    key and position, that an operator has said to pass over.
    """

    kind: Literal["projection", "policy"] = "projection"

    def __init__(
        self,
        projection: BoundProjection,
        model: ReadModel,
        store: WriteStore,
        views: WholeReadStore,
        decode: Callable[[RecordedEvent], Any],
        world: World,
        *,
        partition: Partition = WHOLE,
        epoch: int = 0,
        skips: Skips = frozenset(),
        cached_rows: int = 20_000,
    ) -> None:
        self.name = projection.name
        self.query = EventQuery((QueryItem(projection.types),))
        self.partition = partition
        self.generation = model.generation
        self._projection = projection
        self._model = model
        self._store = store
        self._views = views
        self._decode = decode
        self._world = world
        self._epoch = epoch
        self._skips = skips
        self._rows = Rows(projection, model, views, cached_rows)
        self._parked: dict[str, Parked] = {}
        self._halted: dict[str, Parked] = {}
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
        self._halted = {key: known[key] for key in beyond} if self._projection.parks == "partition" else {}
        self._parked = {key: parked for key, parked in known.items() if key not in beyond}
        # From here on no earlier owner can save: the store has seen this lease.
        await self._write({}, dict.fromkeys(beyond - self._halted.keys()), progress.position, progress.position)
        if not progress.position:
            self._rows.start_empty()
        await self._retry_all(progress.position)
        return progress.position

    async def apply(self, page: Slice, before: Position) -> None:
        await self._save(page, before, {})

    async def set_aside(self, page: Slice, before: Position, error: Exception) -> None:
        (recorded,) = page.events
        if self._projection.parks == "partition":
            await self._halt(recorded, before, error)
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

    async def mend(self, what: Literal["retry", "repair"], key: str, at: Position) -> str:
        if what == "repair":
            return await self._repair(key, at)
        if key in self._halted:
            return "It is tried again now."
        parked = self._parked.get(key)
        if parked is None:
            raise InvalidMessage(f"The key '{key}' of '{self.name}' is not parked.", field="key")
        still = await self._take_up(parked, at)
        return "It is up to date." if still is None else f"It is parked at position {still.position}: {still.error}"

    async def pass_over(self, skips: Skips, at: Position) -> None:
        self._skips |= skips
        for parked in list(self._parked.values()):
            if (parked.key, parked.position) in skips:
                await self._take_up(parked, at)

    def skipped(self, key: str) -> Position | None:
        """The position of the event that a `skip` of this key would pass over."""
        parked = self._halted.get(key) or self._parked.get(key)
        return None if parked is None or (key, parked.position) in self._skips else parked.position

    async def parked(self) -> tuple[Parked, ...]:
        return tuple((self._parked | self._halted).values())

    async def tend(self) -> float | None:
        return None

    async def close(self) -> None:
        return None

    # ----------------------------------------------------------------------------------------------------- at the start

    async def _checkpoint(self) -> Checkpoint:
        for each in await self._views.checkpoints():
            if (each.name, each.generation, each.partition) == (self.name, self.generation, self.partition):
                return each
        raise Conflict(
            f"'{self.name}' has no partition {self.partition.name} in generation {self.generation} any more."
        )

    async def _refuse_other_history(self, position: Position, stamp: str) -> None:
        head = (await self._store.read(NO_EVENTS)).head
        here = self._store.identity
        if position and (not here.holds(stamp, position) or position > head):
            raise WiringError(
                f"The read model '{self.name}' stands at position {position} of the log {stamp}, but the log is "
                f"{here.stamp} with {head} events and does not hold that position. Delete the read database "
                "(it is built anew), or name it right."
            )

    async def _retry_all(self, checkpoint: Position) -> None:
        """Fold parked keys again from where they stopped: the code may have been mended since."""
        for parked in sorted(self._parked.values(), key=lambda each: each.position):
            try:
                await self._refold(parked, checkpoint)
            except (Conflict, Unavailable):
                raise
            except Exception:
                log.exception("%s: the key '%s' stays set aside", self.name, parked.key)

    # --------------------------------------------------------------------------------------------------- page by page

    async def _save(self, page: Slice, before: Position, aside: Mapping[str, Parked]) -> None:
        decoded = await self._decoded(page.events)
        work = touched(self._projection, page.events, decoded)
        if self.partition != WHOLE:
            work = work.where(self.partition.holds)
        parked: dict[str, Parked | None] = {**aside, **dict.fromkeys(self._halted)}
        if aside or self._parked:
            work = self._without_parked(work, parked, aside)
        changed = await self._rows.fold(work, self._skips) if work else {}
        await self._write(changed, parked, before, page.upto)
        self._parked |= {key: each for key, each in parked.items() if each is not None}
        self._halted = {}

    async def _decoded(self, events: Sequence[RecordedEvent]) -> list[Any]:
        """The events in their present shape. Others on this loop have their turn in the midst of a large page."""
        decode = self._decode
        found: list[Any] = []
        for start in range(0, len(events), _PAGE):
            if start:
                await self._world.sleep(0)
            found += [decode(each) for each in events[start : start + _PAGE]]
        return found

    def _without_parked(self, work: Touches, parked: dict[str, Parked | None], aside: Mapping[str, Parked]) -> Touches:
        """The work on keys that are not set aside; what waits behind the others is counted in `parked`."""
        left = Touches([], [], [])
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
        self, rows: dict[str, Kept], parked: Mapping[str, Parked | None], before: Position, position: Position
    ) -> None:
        now = microseconds(self._world.now())
        stamp = self._store.identity.stamp
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
            await self._views.save(change)
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

    async def _halt(self, recorded: RecordedEvent, before: Position, error: Exception) -> None:
        """Put on record what the whole partition waits behind."""
        halted = {key: self._to_park(key, recorded, error) for key in self._failed(recorded, error, {})}
        known = {key: each.position for key, each in self._halted.items()}
        if known != {key: each.position for key, each in halted.items()}:
            await self._write({}, {**dict.fromkeys(self._halted), **halted}, before, before)
            self._halted = halted

    async def _take_up(self, parked: Parked, at: Position) -> Parked | None:
        """Fold a parked key up to the checkpoint; where it stands if that fails again."""
        try:
            await self._refold(parked, at)
        except FoldFailed as failed:
            return await self._park_again(parked, failed, at)
        return None

    async def _park_again(self, parked: Parked, failed: FoldFailed, at: Position) -> Parked:
        """Save how far a key came, and where it stands now."""
        position = failed.position
        changed = {}
        if position > parked.position:
            changed = await self._folded_again(parked.key, parked.position, position - 1)
        left = len(await self._work(parked.key, position, at))
        cause = told(failed.__cause__ or failed)
        still = msgspec.structs.replace(parked, position=position, error=cause, waiting=left, upto=at)
        await self._write(changed, {parked.key: still}, at, at)
        self._parked[parked.key] = still
        return still

    async def _refold(self, parked: Parked, checkpoint: Position) -> None:
        """Fold a parked key up to the checkpoint, and free it. FoldFailed where it still fails."""
        changed = await self._folded_again(parked.key, parked.position, checkpoint)
        await self._write(changed, {parked.key: None}, checkpoint, checkpoint)
        del self._parked[parked.key]

    async def _folded_again(self, key: str, first: Position, last: Position) -> dict[str, Kept]:
        work = await self._work(key, first - 1, last)
        if not work.recorded or work.recorded[0].position != first:
            # By its tag it would be passed over without a word.
            raise FoldFailed(key, first, LookupError(_OTHER_TAG.format(key=key, position=first)))
        return await self._rows.fold(work, self._skips)

    async def _repair(self, key: str, at: Position) -> str:
        """Fold a key from its first event, whatever row is there, and keep that as a repaired version."""
        if key in self._parked or key in self._halted:
            raise InvalidMessage(f"The key '{key}' of '{self.name}' is parked. Retry or skip it first.", field="key")
        if not self.partition.holds(key):
            raise InvalidMessage(f"The key '{key}' is not in the partition {self.partition.name}.", field="key")
        # Not loaded as a row: one that nobody can read is to be repaired all the more.
        there = (await self._views.inspect(self._model, [key])).get(key, Stored(None, 0))
        work = await self._work(key, 0, at)
        if there.position not in {each.position for each in work.recorded} and await self._touches(there.position, key):
            raise InvalidMessage(_OTHER_TAG.format(key=key, position=there.position), field="key")
        try:
            folded = fold_all(self._projection, work, {}, self._skips)
        except FoldFailed as failed:
            raise InvalidMessage(
                f"The key '{key}' of '{self.name}' cannot be folded, its event at {failed.position} fails: "
                f"{type(failed.__cause__).__name__}: {failed.__cause__}. Mend the fold first.",
                field="key",
            ) from failed
        right = folded.get(key, ABSENT)
        same = right.row is None or right.position == there.position
        if same and not there.damage and _written(right.row) == _written(there.row):
            return "The row was right already."
        states = (*right.passed, *self._as_row(there.row))
        mended = Kept(right.row, max(right.position, 1), there.repair + 1, states)
        await self._write({key: mended}, {}, at, at)
        return "The row is repaired."

    async def _touches(self, position: Position, key: str) -> bool:
        """Whether the event at a position touches a key, whatever tags it is stored under."""
        page = await self._store.read(self.query, position - 1, 1) if position > 0 else None
        return page is not None and any(
            each.position == position and key in self._projection.keys(self._decode(each)) for each in page.events
        )

    def _as_row(self, stored: Any | None) -> list[Any]:
        """The row that is there, so that all its copies are found; none where it fits no row."""
        if stored is None:
            return []
        try:
            return [msgspec.convert(stored, self._projection.row)]
        except msgspec.ValidationError as error:
            log.warning("%s: what is repaired was no row: %s", self.name, error)
            return []

    async def _work(self, key: str, after: Position, last: Position) -> Touches:
        """The events that touch a key, behind `after` up to `last`."""
        work = Touches([], [], [])
        position, query = after, self._projection.events_of(key)
        while position < last:
            page = await self._store.read(query, position, _PAGE)
            for recorded in page.events:
                event = self._decode(recorded)
                if recorded.position <= last and key in self._projection.keys(event):
                    work.add(recorded, event, key)
            position = page.upto
        return work

    def _to_park(self, key: str, recorded: RecordedEvent, error: Exception) -> Parked:
        return Parked(key, recorded.position, told(error.__cause__ or error), microseconds(self._world.now()))


def _written(row: Any | None) -> bytes:
    """A row, or the JSON data of one, so that equal ones are equal byte by byte: 1, 1.0 and true are not."""
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(row)), order="deterministic")
