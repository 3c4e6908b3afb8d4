"""Logs on several servers: addressed together, written one command at a time, waited for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.servers.postgres import Postgres
from twofold import Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import NewEvent
from twofold.write_store.port import Append, Appended
from twofold.write_store.postgres import PostgresWriteStore


def one(command_id: str, type: str = "a") -> Append:
    """An append of one event."""
    event = NewEvent(f"{command_id}.0", type, 1, ("k:1",), b"{}")
    return Append(Metadata(0, command_id, command_id), (event,), (), command_id, b"one")


def on(url: str, *servers: Postgres) -> str:
    """The URL of a log, on these servers."""
    _, at, rest = url.partition("@")
    return f"postgresql://postgres{at}{','.join(f'127.0.0.1:{each.port}' for each in servers)}/{rest.split('/', 1)[1]}"


@asynccontextmanager
async def opened(url: str, *, patience: float = 30.0, read_only: bool = False) -> AsyncIterator[PostgresWriteStore]:
    """The log at a URL, closed at the end."""
    store = await PostgresWriteStore.open(url, patience=patience, read_only=read_only)
    try:
        yield store
    finally:
        await store.close()


async def written(store: PostgresWriteStore, *command_ids: str) -> list[int]:
    """The positions of what these commands write, one batch each."""
    positions: list[int] = []
    for command_id in command_ids:
        (outcome,) = await store.append([one(command_id)])
        assert isinstance(outcome, Appended), outcome
        positions.append(outcome.position)
    return positions


async def commands_of(store: PostgresWriteStore) -> list[str]:
    """What wrote each event, in order."""
    return [event.metadata.command_id for event in (await store.read(ALL_EVENTS)).events]


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something that costs a query holds."""
    async with asyncio.timeout(60):
        while True:
            if holds():
                return
            await asyncio.sleep(0)
