"""Whether the write store takes commands: known from the last append, or found by a small write."""

import asyncio

from twofold.command_service.batcher import Batcher
from twofold.domain.envelope import Metadata
from twofold.errors import Unavailable
from twofold.world import World, microseconds
from twofold.write_store.port import Append, Appended, RowWrite, WriteStore

PATIENCE_SECONDS = 2.0
"""An append that succeeded this long ago is proof enough, and a small write may take this long."""
SPACE = "health"
_KEY = "written"


class WriteCheck:
    """Writes one small row where no append has succeeded lately: one write at a time, for all who ask."""

    def __init__(self, write_store: WriteStore, batcher: Batcher, world: World) -> None:
        self._write_store = write_store
        self._batcher = batcher
        self._world = world
        self._version: int | None = None
        self._began = 0.0
        self._writing: asyncio.Task[None] | None = None

    async def refusal(self) -> str | None:
        """Why the write store takes no commands, in a sentence; None if it does. Takes two seconds at most."""
        now, written = self._world.monotonic(), self._batcher.written_at
        if self._batcher.refusal is None and written is not None and now - written < PATIENCE_SECONDS:
            return None
        if self._writing is None or self._writing.done():
            self._began = now
            self._writing = asyncio.create_task(self._write(), name="twofold-write-check")
            # Those who ask may leave before it ends; its error is noted by then.
            self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        writing = self._writing
        try:
            await self._world.within(max(0.0, self._began + PATIENCE_SECONDS - now), asyncio.shield(writing))
        except TimeoutError:
            if not writing.done():
                return self._batcher.refusal or f"The write store has not taken a write for {PATIENCE_SECONDS:g} s."
        except Unavailable as error:
            return str(error)
        return self._batcher.refusal

    async def _write(self) -> None:
        if self._version is None:
            row = (await self._write_store.rows(SPACE, [_KEY])).get(_KEY)
            self._version = 0 if row is None else row.version
        metadata = Metadata(microseconds(self._world.now()), SPACE, SPACE)
        outcome = await self._batcher.append(Append(metadata, rows=(RowWrite(SPACE, _KEY, b"", self._version),)))
        # Where another node wrote the row meanwhile, the store takes writes.
        self._version = self._version + 1 if isinstance(outcome, Appended) else None
