"""In charge of a fold of the whole log beside the one that serves: in a file of its own, gone when it is done."""

import copy
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from urllib.parse import quote

from twofold.app import App
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import Conflict, Unavailable, WiringError
from twofold.operations.looking import Look
from twofold.read_store.port import ReadModel
from twofold.stores import open_read_store
from twofold.synchronization.follower import Skips
from twofold.synchronization.projector import Projector
from twofold.world import World
from twofold.write_store.port import Slice, WriteStore

OnProgress = Callable[[Position, Position], None]
"""Hears the position folded up to and the position where it will be done."""

_NUMBER = 1
_ROWS = 200_000


class Scratch:
    """Rows folded from the first event on by an ordinary projector, up to where it was told to go."""

    def __init__(self, projector: Projector, write_store: WriteStore, look: Look, world: World, page: int) -> None:
        self.look = look
        self._world = world
        self.position: Position = 0
        self._projector = projector
        self._write_store = write_store
        self._page = page

    async def advance(self, to: Position, on_progress: OnProgress | None = None) -> None:
        """Fold up to a position, in pages. A key that cannot be folded is set aside here, as it would be elsewhere."""
        while self.position < to:
            page = await self._write_store.read(self._projector.query, self.position, self._page)
            events = [event for event in page.events if event.position <= to]
            upto = min(page.upto, to)
            await self._take(Slice(events, upto, page.head))
            self.position = upto
            if on_progress is not None:
                on_progress(upto, to)
            # Files are read on the event loop: whoever runs on it, too, has a turn now and then.
            await self._world.sleep(0)

    async def _take(self, page: Slice) -> None:
        try:
            await self._projector.apply(page, self.position)
        except (Conflict, Unavailable):
            raise
        except Exception:  # noqa: BLE001 -- a fold may raise anything; which key it is about is found one by one
            await self._one_by_one(page)

    async def _one_by_one(self, page: Slice) -> None:
        position = self.position
        for event in page.events:
            alone = Slice([event], event.position, page.head)
            try:
                await self._projector.apply(alone, position)
            except (Conflict, Unavailable):
                raise
            except Exception as error:  # noqa: BLE001 -- see above
                await self._set_aside(alone, position, error)
            position = event.position
        if position < page.upto:
            await self._projector.apply(Slice([], page.upto, page.head), position)

    async def _set_aside(self, page: Slice, before: Position, error: Exception) -> None:
        (event,) = page.events
        try:
            await self._projector.park(page, before, error)
        except (Conflict, Unavailable):
            raise
        except Exception as another:
            raise WiringError(
                f"'{self._projector.name}' cannot be audited: it has no key for the '{event.type}' event at position "
                f"{event.position}: {type(another).__name__}: {another}. Mend that first."
            ) from another


@asynccontextmanager
async def scratch(
    app: App, write_store: WriteStore, projection: BoundProjection, skips: Skips
) -> AsyncGenerator[Scratch]:
    """A fold that has not begun, in a folder for temporary files."""
    by_key = copy.copy(projection)
    # What waits behind a key is no question here: who asks has the others judged, too.
    by_key.parks = "key"
    model = ReadModel(projection.name, _NUMBER, projection.row)
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        read_store = await open_read_store(f"sqlite:///{quote(folder)}/scratch.db", app.world)
        try:
            await read_store.prepare([model])
            projector = Projector(
                by_key, model, write_store, read_store, app.events.decode, app.world, skips=skips, cached_rows=_ROWS
            )
            await projector.open()
            look = Look(write_store, read_store, projection.name, _NUMBER, still=True)
            yield Scratch(projector, write_store, look, app.world, app.settings.catch_up_page_events)
        finally:
            await read_store.close()
