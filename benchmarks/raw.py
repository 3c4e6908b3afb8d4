"""The reference: the bare driver writes the same rows, with FULL sync, and does nothing else."""

import time
from importlib.resources import files
from pathlib import Path

import apsw

from twofold.sqlite_file import open_connection

_EVENT = "insert into events (log_id, position, type_id, version, payload, envelope) values (?, ?, ?, ?, ?, ?)"
_TAG = "insert into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?)"
_COMMAND = """
insert into commands (log_id, command_id, request_hash, position, count, recorded_at) values (?, ?, ?, ?, ?, ?)
"""
ENVELOPE = (
    b'{"id":"0c8b5e0e-7f4b-4c55-9a6d-2f1d0a3b4c5d.0","tags":["account:a-123"],"metadata":{"time":1700000000000000,'
    b'"command_id":"0c8b5e0e-7f4b-4c55-9a6d-2f1d0a3b4c5d","correlation_id":"0c8b5e0e-7f4b-4c55-9a6d-2f1d0a3b4c5d",'
    b'"causation_id":null,"actor":null}}'
)
Event = tuple[int, int, int, int, bytes, bytes]
Tag = tuple[int, str, int, int]
Command = tuple[int, str, bytes, int, int, int]

PAYLOAD = b'{"account_id":"a-123","amount":100}'


def connect(folder: Path) -> apsw.Connection:
    """A connection with the store's own schema and pragmas."""
    connection = open_connection(folder / "raw.db")
    for pragma in ("synchronous = full", "secure_delete = on", "cache_size = -65536", "wal_autocheckpoint = 4000"):
        connection.execute(f"pragma {pragma}").fetchall()
    connection.execute(files("twofold.write_store.sqlite").joinpath("schema.sql").read_text("utf-8"))
    connection.execute("insert into logs (log_id, name, epoch, position) values (1, 'raw', 1, 0)")
    return connection


def inserts(folder: Path, batches: int, batch: int) -> float:
    """Events a second: event, two tag rows and command row each, one synced transaction a batch."""
    connection = connect(folder)
    rows = [_rows(first, batch) for first in range(1, batches * batch + 1, batch)]
    start = time.perf_counter()
    for events, tags, commands in rows:
        connection.execute("begin immediate")
        connection.executemany(_EVENT, events)
        connection.executemany(_TAG, tags)
        connection.executemany(_COMMAND, commands)
        connection.execute("update logs set position = ? where log_id = 1", (events[-1][1],))
        connection.execute("commit")
    seconds = time.perf_counter() - start
    connection.close()
    return batches * batch / seconds


def _rows(first: int, batch: int) -> tuple[list[Event], list[Tag], list[Command]]:
    events: list[Event] = []
    tags: list[Tag] = []
    commands: list[Command] = []
    for position in range(first, first + batch):
        events.append((1, position, 1, 1, PAYLOAD, ENVELOPE))
        tags += [(1, "", 1, position), (1, f"account:a-{position % 2_000}", 1, position)]
        scattered = f"{position * 2_654_435_761 % 4_294_967_296:08x}-7f4b-4c55-9a6d-2f1d0a3b4c5d"
        commands.append((1, scattered, b"0123456789abcdef", position, 1, 1_700_000_000_000_000))
    return events, tags, commands
