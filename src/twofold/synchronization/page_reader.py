"""Reads the pages of a worker. Far behind the head, pages grow, and the next page is read ahead."""

import asyncio
from typing import NamedTuple

from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position
from twofold.synchronization.follower_kind import Team
from twofold.world import World
from twofold.write_store.port import PAGE_BYTES, LogIdentity, Slice, WriteStore

_PART = 1_000
"""Events that are read at a time: an embedded log reads on the event loop."""


class _Ahead(NamedTuple):
    """The page after a position, being read from a log of this identity."""

    after: Position
    log: LogIdentity
    reading: "asyncio.Future[Slice]"


class PageReader:
    """Reads the events that at least one follower of a team takes."""

    def __init__(self, write_store: WriteStore, team: Team, world: World) -> None:
        items = dict.fromkeys(item for follower in team.followers.values() for item in follower.query.items)
        self._query = EventQuery(tuple(items))
        self._write_store = write_store
        self._world = world
        self._page = self._limit = team.page
        self._most = max(team.page, team.catch_up_page)
        self._decoded = team.decoded
        self._ahead: _Ahead | None = None

    async def read(self, position: Position) -> Slice:
        """The page after a position."""
        if self._decoded is not None:
            self._decoded.clear()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if (ahead.after, ahead.log) == (position, self._write_store.identity):
                return await ahead.reading
            _drop(ahead)
        return await self._read(position)

    def read_ahead(self, page: Slice) -> None:
        """Begin to read the page after this one, if there are more events."""
        far = page.upto < page.head
        self._limit = min(self._most, self._limit * 2 if far else self._page)
        if far:
            reading = asyncio.ensure_future(self._read(page.upto))
            self._ahead = _Ahead(page.upto, self._write_store.identity, reading)

    async def wait(self, position: Position, seconds: float) -> None:
        """Wait for events after a position, at most so many seconds."""
        await self._write_store.wait(position, seconds)

    async def _read(self, position: Position) -> Slice:
        """The page after a position, read in parts."""
        log, limit = self._write_store.identity, self._limit
        if limit <= _PART:
            return await self._write_store.read(self._query, position, limit)
        parts = -(-limit // _PART)
        size = PAGE_BYTES // parts
        page = await self._write_store.read(self._query, position, _PART, size)
        events = page.events
        for _ in range(parts - 1):
            if page.upto >= page.head or len(events) >= limit:
                break
            await self._world.sleep(0)
            part = await self._write_store.read(self._query, page.upto, min(limit - len(events), _PART), size)
            if self._write_store.identity != log:
                # What was read before may be of another history than this part.
                break
            page, events = part, events + part.events
        return Slice(events, page.upto, page.head, page.chain)

    def close(self) -> None:
        """Drop what is being read ahead."""
        if self._ahead is not None:
            _drop(self._ahead)


def _drop(ahead: _Ahead) -> None:
    """Cancel the reading. Its error, if it has one, does not matter any more."""
    ahead.reading.cancel()
    ahead.reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
