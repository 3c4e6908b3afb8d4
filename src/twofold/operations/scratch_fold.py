"""A fold of the whole log into a temporary SQLite file, for comparison with the generation that serves."""

import copy
import os
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from twofold.app import App
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, Unavailable
from twofold.operations.key_folds import no_key
from twofold.operations.progress import OnProgress
from twofold.operations.row_inspector import RowInspector
from twofold.read_store.partition import ParkedEvent
from twofold.read_store.port import ReadModel
from twofold.stores import open_scratch_read_store
from twofold.synchronization.folding import EventFailed
from twofold.synchronization.follower import Skips
from twofold.synchronization.projector import Projector, ProjectorIO, ProjectorOptions
from twofold.world import World
from twofold.write_store.history import HistoryCheck, read_up_to
from twofold.write_store.port import Slice, WriteStore

_NUMBER = 1
# The memory of an audit must not depend on the size of the read model.
_ROWS = 20_000


class ScratchFold:
    """`rows` folded from the first event by an ordinary projector, up to a `position`."""

    def __init__(
        self,
        projector: Projector,
        write_store: WriteStore,
        rows: RowInspector,
        parked: Callable[[], frozenset[ParkedEvent]],
        world: World,
        page: int,
    ) -> None:
        self.rows = rows
        self._parked = parked
        self._world = world
        self.position: Position = 0
        self._projector = projector
        self._write_store = write_store
        self._page = page

    async def advance(self, to: Position, on_progress: OnProgress | None = None) -> None:
        """Fold up to a position, in pages. A key that cannot be folded is parked, as a follower does."""
        while self.position < to:
            page = await read_up_to(self._write_store, self._projector.query, self.position, self._page, to)
            await self._fold(page, self.position)
            self.position = page.upto
            if on_progress is not None:
                on_progress(page.upto, to)
            # SQLite is read on the event loop, so other tasks need a turn.
            await self._world.sleep(0)

    async def _fold(self, page: Slice, before: Position) -> None:
        """Fold a page. If that fails, fold its events one by one, and park the key of each that fails."""
        try:
            await self._projector.apply(page, before)
        except (Conflict, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 -- a fold may raise anything
            if [event.position for event in page.events] == [page.upto]:
                await self._park(page, before, error)
                return
            for event in page.events:
                await self._fold(Slice([event], event.position, page.head, event.chain), before)
                before = event.position
            if before < page.upto:
                await self._projector.apply(Slice([], page.upto, page.head, page.chain), before)

    async def _park(self, page: Slice, before: Position, error: Exception) -> None:
        (event,) = page.events
        if isinstance(error, EventFailed) and event.position not in {each.position for each in self._parked()}:
            # No stored row is without it on purpose.
            raise no_key(self._projector.name, event, error.__cause__ or error) from error
        try:
            await self._projector.park(page, before, error)
        except (Conflict, Unavailable):
            raise
        except Exception as another:
            raise no_key(self._projector.name, event, another) from another


@asynccontextmanager
async def scratch_fold(
    app: App,
    write_store: WriteStore,
    projection: BoundProjection,
    skips: Skips,
    parked: Callable[[], frozenset[ParkedEvent]],
) -> AsyncGenerator[ScratchFold]:
    """A fold at position 0, in a folder for temporary files. `parked` are the events that may be parked by position."""
    by_key = copy.copy(projection)
    # A failing key must not block the others: the audit needs their rows, too.
    by_key.parks = "key"
    model = ReadModel(projection.name, _NUMBER, projection.row)
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        read_store = open_scratch_read_store(os.path.join(folder, "scratch.db"), app.world)
        try:
            await read_store.prepare([model])
            io = ProjectorIO(write_store, read_store, app.events.decode, app.world, HistoryCheck(write_store))
            projector = Projector(by_key, model, io, options=ProjectorOptions(skips=skips, cached_rows=_ROWS))
            await projector.open()
            rows = RowInspector(write_store, read_store, projection.name, _NUMBER, idle=True)
            yield ScratchFold(projector, write_store, rows, parked, app.world, app.settings.catch_up_page_events)
        finally:
            await read_store.close()
