"""In charge of one projection: a batch's rows loaded in one read, folded, saved together with the checkpoint."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from twofold.codec import EventCodec
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, Unavailable, WiringError
from twofold.read_store.port import Change, Parked, Progress, ReadModel, ReadStore
from twofold.world import World, microseconds
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)

Work = tuple[RecordedEvent, object, str]


class FoldFailed(Exception):
    """A fold raised for one key; the cause is chained."""

    def __init__(self, key: str, recorded: RecordedEvent) -> None:
        super().__init__(f"the fold failed for key '{key}' at position {recorded.position}")
        self.key = key


class Projector:
    """Keeps one read model equal to the fold of the log at its checkpoint."""

    kind: Literal["projection", "policy"] = "projection"

    def __init__(
        self,
        projection: BoundProjection,
        model: ReadModel,
        store: WriteStore,
        views: ReadStore,
        codec: EventCodec,
        world: World,
    ) -> None:
        self.name = projection.name
        self.query = EventQuery((QueryItem(projection.types),))
        self._projection = projection
        self._model = model
        self._store = store
        self._views = views
        self._codec = codec
        self._world = world
        self._parked: dict[str, Parked] = {}
        self._stamp = ""

    async def open(self) -> Position:
        progress = await self._progress()
        head = (await self._store.read(EventQuery())).head
        here = self._store.identity
        if progress.position and (not here.holds(progress.log, progress.position) or progress.position > head):
            raise WiringError(
                f"The read model '{self.name}' stands at position {progress.position} of the log {progress.log}, but "
                f"the log is {here.stamp} with {head} events and does not hold that position. Delete the read database "
                "(it is built anew), or name it right."
            )
        self._stamp = progress.log
        self._parked = {parked.key: parked for parked in progress.parked}
        await self._retry_parked(progress.position)
        return progress.position

    async def apply(self, page: Slice, before: Position) -> None:
        await self._save(page, before, {})

    async def set_aside(self, page: Slice, before: Position, error: Exception) -> None:
        (recorded,) = page.events
        aside: dict[str, Parked] = {}
        while True:
            if isinstance(error, FoldFailed):
                failed: tuple[str, ...] = (error.key,)
            else:
                # Not the fold but the saving failed: no key can be told from another, so all of the event's keys wait.
                failed = self._projection.keys(self._codec.decode(recorded))
            fresh = {key: self._to_park(key, recorded, error) for key in failed if key not in aside}
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

    async def parked(self) -> tuple[Parked, ...]:
        return tuple(self._parked.values())

    async def close(self) -> None:
        return None

    async def _save(self, page: Slice, before: Position, aside: Mapping[str, Parked]) -> None:
        decode, keys = self._codec.decode, self._projection.keys
        decoded = [(recorded, decode(recorded)) for recorded in page.events]
        work = [(recorded, event, key) for recorded, event in decoded for key in keys(event)]
        parked: dict[str, Parked] = dict(aside)
        if aside or self._parked:
            work = self._without_parked(work, parked, aside)
        rows = await self._fold(work) if work else {}
        await self._write(rows, parked, before, page.upto)
        self._parked |= parked

    def _without_parked(self, work: list[Work], parked: dict[str, Parked], aside: Mapping[str, Parked]) -> list[Work]:
        """The work on keys that are not set aside; what waits behind the others is counted in `parked`."""
        left: list[Work] = []
        for each in work:
            key = each[2]
            if key in aside:
                continue
            waiting = parked.get(key) or self._parked.get(key)
            if waiting is not None:
                parked[key] = _one_more(waiting)
            else:
                left.append(each)
        return left

    async def _fold(self, work: list[Work]) -> dict[str, Any]:
        keys = tuple(dict.fromkeys(key for _, _, key in work))
        rows: dict[str, Any] = await self._views.load(self._model, keys)
        changed: dict[str, Any] = {}
        fold = self._projection.fold
        for recorded, event, key in work:
            try:
                row = fold(rows.get(key), event, key, recorded)
            except Exception as error:
                raise FoldFailed(key, recorded) from error
            if row is not None or key in rows:
                rows[key] = changed[key] = row
        return changed

    async def _write(
        self, rows: Mapping[str, Any], parked: Mapping[str, Parked | None], before: Position, position: Position
    ) -> None:
        now = microseconds(self._world.now())
        stamp = self._store.identity.stamp
        await self._views.save(Change(self._model, stamp, before, position, now, rows, parked, was=self._stamp))
        self._stamp = stamp

    async def _retry_parked(self, checkpoint: Position) -> None:
        """Fold parked keys again from where they stopped: the code may have been mended since."""
        for parked in sorted(self._parked.values(), key=lambda each: each.position):
            try:
                rows = await self._refold(parked, checkpoint)
                await self._write(rows, {parked.key: None}, checkpoint, checkpoint)
            except (Conflict, Unavailable):
                raise
            except Exception:
                log.exception("%s: the key '%s' stays set aside", self.name, parked.key)
                continue
            del self._parked[parked.key]

    async def _refold(self, parked: Parked, checkpoint: Position) -> dict[str, Any]:
        work: list[Work] = []
        position = parked.position - 1
        while position < checkpoint:
            page = await self._store.read(self.query, position, 1_000)
            for recorded in page.events:
                event = self._codec.decode(recorded)
                if recorded.position <= checkpoint and parked.key in self._projection.keys(event):
                    work.append((recorded, event, parked.key))
            position = page.upto
        return await self._fold(work)

    async def _progress(self) -> Progress:
        async with self._views.snapshot() as snapshot:
            return await snapshot.progress(self._model)

    def _to_park(self, key: str, recorded: RecordedEvent, error: Exception) -> Parked:
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {cause}"[:500]
        return Parked(key, recorded.position, text, microseconds(self._world.now()))


def _one_more(parked: Parked) -> Parked:
    return Parked(parked.key, parked.position, parked.error, parked.since, parked.waiting + 1)
