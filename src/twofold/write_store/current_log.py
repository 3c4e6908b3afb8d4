"""The write store of a running app, which can be replaced by another one that has the same log, while calls wait."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.signal import Signal, wait_for
from twofold.world import World
from twofold.write_store.log_copier import RowKeys
from twofold.write_store.port import (
    PAGE_BYTES,
    Append,
    Appended,
    LogIdentity,
    LogRow,
    Outcome,
    Slice,
    WriteStore,
)
from twofold.write_store.reserving import DecideReserved, append_reserved


class CurrentLog:
    """Passes all calls to the `present` write store. While it is `closed`, they wait. `replaced` fires after a change.

    A log may be replaced only by a copy of it that has all its events, commands and rows: those who call do not notice.
    """

    def __init__(self, present: WriteStore, world: World) -> None:
        self.present = present
        self.replaced = Signal()
        self._world = world
        self._calls = 0
        self._idle = Signal()
        self._opening: asyncio.Event | None = None
        """Set when calls go on; None while they do not wait."""
        self._failure: str | None = None
        self._changed: dict[str, dict[str, None]] | None = None

    @property
    def identity(self) -> LogIdentity:
        return self.present.identity

    @property
    def problem(self) -> str | None:
        return self._failure or self.present.problem

    @property
    def exclusive(self) -> bool:
        return self.present.exclusive

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        await self._begin()
        try:
            return await self.present.append(batch)
        finally:
            # Afterwards: a snapshot that began before the commit does not have these rows, and the next one must.
            self._note_rows(batch)
            self._end()

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        await self._begin()
        batch: Sequence[Append] = ()

        async def note(page: Slice | None) -> Sequence[Append]:
            nonlocal batch
            batch = await decide(page)
            return batch

        try:
            return await append_reserved(self.present, conditions, note)
        finally:
            self._note_rows(batch)
            self._end()

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        await self._begin()
        try:
            return await self.present.read(query, after, limit, size)
        finally:
            self._end()

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        await self._begin()
        try:
            return await self.present.newer(conditions, command_id, limit)
        finally:
            self._end()

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        await self._begin()
        try:
            return await self.present.rows(space, keys, limit)
        finally:
            self._end()

    async def wait(self, after: Position, timeout: float) -> None:
        # It does not wait for the log to open: who waits for events does not keep it from being closed.
        await self.present.wait(after, timeout)

    async def close(self) -> None:
        await self.present.close()

    # ---------------------------------------------------------------------------------------------------- replacing it

    @asynccontextmanager
    async def closed(self, seconds: float) -> AsyncGenerator[None]:
        """All calls wait within the context, and none is under way. Unavailable where one takes longer than `seconds`.

        If `fail` was called by its end, they fail from then on.
        """
        self._opening = asyncio.Event()
        try:
            deadline = self._world.monotonic() + seconds
            while self._calls:
                left = deadline - self._world.monotonic()
                if left <= 0:
                    raise Unavailable(f"A call of the write store has taken longer than {seconds:g} s.")
                await wait_for(self._idle.next, left, self._world)
            yield
        finally:
            opening, self._opening = self._opening, None
            opening.set()

    def replace(self, new: WriteStore) -> WriteStore:
        """Go on with another write store; the one before, which the caller closes. Only while it is `closed`."""
        old, self.present = self.present, new
        self.replaced.fire()
        return old

    def fail(self, reason: str) -> None:
        """All calls fail with Unavailable until a restart: nobody may write to the present write store any more."""
        self._failure = reason

    def watch_rows(self) -> None:
        """From now on note which rows are written through this."""
        self._changed = {}

    def take_changed_rows(self) -> RowKeys | None:
        """The rows that were written since the last call. None where others may have written some: it is not known."""
        changed, self._changed = self._changed, {}
        if changed is None or not self.present.exclusive:
            return None
        return {space: list(keys) for space, keys in changed.items()}

    def ignore_rows(self) -> None:
        """Note no rows any more."""
        self._changed = None

    def _note_rows(self, batch: Sequence[Append]) -> None:
        if self._changed is not None:
            for append in batch:
                for row in append.rows:
                    self._changed.setdefault(row.space, {})[row.key] = None

    async def _begin(self) -> None:
        while self._opening is not None:
            await self._opening.wait()
        if self._failure is not None:
            raise Unavailable(self._failure, retry_after=60.0)
        self._calls += 1

    def _end(self) -> None:
        self._calls -= 1
        if not self._calls and self._opening is not None:
            self._idle.fire()
