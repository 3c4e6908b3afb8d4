"""Shared by tests of the SQLite log: appends, a disk that can fail, and the check before each answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import apsw

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import NewEvent
from twofold.testing.faulty_disk import FaultyDisk
from twofold.write_store.port import Append, Appended, Outcome
from twofold.write_store.sqlite import SqliteWriteStore


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.close()


def command(number: int, *, events: int = 1, tag: str = "thing:1", size: int = 2, time: int = 0) -> Append:
    """The append of one command, all of whose content follows from its number."""
    command_id = f"command-{number}"
    # Most of a large payload is random, so that packing saves little of it.
    end = Random(number).randbytes(size // 2).hex() if size > 20 else ""
    payload = f'"{number:0{min(size, 20)}d}{end}"'.encode()
    new = tuple(NewEvent(f"{command_id}.{i}", "thing-happened", 1, (tag,), payload) for i in range(events))
    return Append(Metadata(time, command_id, command_id), new, (), command_id, b"%d" % number)


def connection_of(store: SqliteWriteStore) -> apsw.Connection:
    """The connection that writes, for tests that break its settings."""
    connection = store._write_connection
    assert connection is not None
    return connection


async def positions_and_ids(store: SqliteWriteStore) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while True:
        page = await store.read(ALL_EVENTS, len(found))
        found += [(event.position, event.id) for event in page.events]
        if not page.events:
            return found


async def append_watched(store: SqliteWriteStore, disk: FaultyDisk, batch: Sequence[Append]) -> list[Outcome]:
    """Append, and AssertionError if the answer came before everything written to the write-ahead log was synced."""
    syncs, writes = disk.done["sync", "wal"], disk.done["write", "wal"]
    outcomes = await store.append(batch)
    if any(isinstance(outcome, Appended) and not outcome.repeated for outcome in outcomes):
        assert disk.done["write", "wal"] > writes, "acknowledged without a write to the write-ahead log"
        assert disk.done["sync", "wal"] > syncs, "acknowledged without a sync of the write-ahead log"
        assert disk.unsynced("wal") == 0, f"acknowledged with {disk.unsynced('wal')} writes not yet synced"
    return outcomes
