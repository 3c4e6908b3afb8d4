"""Logs to be damaged at random, what is stored in them, and random damages of a SQLite file."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw

from twofold.domain.envelope import Metadata
from twofold.domain.events import NewEvent
from twofold.errors import TwofoldError
from twofold.operations.verify import verify
from twofold.world import RealWorld, microseconds
from twofold.write_store.port import Append, EpochStore, RowWrite, WriteStore
from twofold.write_store.sqlite import SqliteWriteStore, packing

EVENTS = 200
TYPES = ("order-placed", "order-paid", "item-added", "note-written")


async def fill(store: WriteStore) -> None:
    """Commands with 0 to 4 events each, until there are `EVENTS`, most of them packed where the store packs."""
    with patch.object(packing, "_SAMPLES", 10):
        await _fill(store)


async def _fill(store: WriteStore) -> None:
    chance, now, written, number = random.Random(7), microseconds(RealWorld().now()), 0, 0
    while written < EVENTS:
        number += 1
        command_id = f"command-{number}"
        events = tuple(
            NewEvent(
                f"{command_id}.{i}" if chance.random() < 0.9 else f"event-{number}-{i}",
                chance.choice(TYPES),
                chance.choice((1, 1, 2)),
                tuple(sorted({f"order:o-{chance.randrange(20)}", f"item:i-{chance.randrange(9)}"})),
                b'{"placed_on":"2026-11-30","currency":"EUR","country":"Switzerland","discount":null,"text":"%s"}'
                % chance.randbytes(chance.randrange(50)).hex().encode(),
            )
            for i in range(min(chance.randrange(5), EVENTS - written))
        )
        metadata = Metadata(now + number, command_id, command_id, actor=chance.choice((None, "ann")))
        rows = (RowWrite("space", command_id, chance.randbytes(20), 0),) if number % 3 == 0 else ()
        if written and number % 40 == 0:
            assert isinstance(store, EpochStore)
            await store.begin_epoch("a test")
        await store.append([Append(metadata, events, (), command_id, chance.randbytes(32), rows)])
        written += len(events)


# What is stored: what `verify` answers for. See docs/how-to/verify-a-log.md.
STORED = (
    "select log_id, name, epoch, position, chain, commands_checksum, rows_checksum from logs order by 1, 2",
    "select * from event_types order by 1, 2, 3",
    "select * from events order by 1, 2, 3",
    "select * from event_tags order by 1, 2, 3, 4",
    "select * from payload_dictionaries order by 1, 2, 3, 4",
    "select log_id, command_id, request_hash, position, count, recorded_at, checksum from commands order by 1, 2, 3",
    "select * from rows order by 1, 2, 3",
    "select * from epochs order by 1, 2",
)


def stored(path: Path) -> Any:
    """What is stored in a SQLite log; the error where it cannot be read."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return [list(connection.execute(sql)) for sql in STORED]
        finally:
            connection.close()
    except (apsw.Error, UnicodeDecodeError) as error:
        return repr(error)


async def found_in(path: Path) -> str | None:
    """What `verify` says of a damaged SQLite log, or why it cannot be opened; None where it is all right."""
    try:
        store = SqliteWriteStore(path, read_only=True)
    except TwofoldError as error:
        return str(error)
    try:
        result = await verify(store, RealWorld())
    except TwofoldError as error:
        return str(error)
    finally:
        await store.close()
    return None if result.all_right else result.damages[0].message


# Damages by SQL

Change = Callable[[apsw.Connection, random.Random], None]


def _row(connection: apsw.Connection, chance: random.Random, sql: str) -> tuple[Any, ...]:
    return tuple(chance.choice(list(connection.execute(sql))))


def _flipped(value: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]


def flip_in_an_event(connection: apsw.Connection, chance: random.Random) -> None:
    column = chance.choice(("payload", "envelope", "tags", "chain"))
    position, value = _row(connection, chance, f"select position, {column} from events")
    connection.execute(f"update events set {column} = ? where position = ?", (_flipped(value, chance), position))


def flip_in_a_remembered_command(connection: apsw.Connection, chance: random.Random) -> None:
    arrival, value = _row(connection, chance, "select arrival, request_hash from commands")
    sql = "update commands set request_hash = ? where arrival = ?"
    connection.execute(sql, (_flipped(value, chance), arrival))


def change_a_row(connection: apsw.Connection, chance: random.Random) -> None:
    key, value = _row(connection, chance, "select key, value from rows")
    kind = chance.randrange(5)
    if kind == 0:
        connection.execute("update rows set value = ? where key = ?", (_flipped(value, chance), key))
    elif kind == 1:
        connection.execute("delete from rows where key = ?", (key,))
    elif kind == 2:
        connection.execute("update rows set version = version + 1 where key = ?", (key,))
    elif kind == 3:
        connection.execute("update or ignore rows set key = key || '1' where key = ?", (key,))
    else:
        (other,) = _row(connection, chance, "select key from rows")
        sql = "update rows set (value, checksum) = (select value, checksum from rows where key = ?) where key = ?"
        connection.execute(sql, (other, key))


def change_a_number(connection: apsw.Connection, chance: random.Random) -> None:
    table, column = chance.choice(
        [
            *(("events", column) for column in ("version", "type_id", "position")),
            *(("event_tags", column) for column in ("type_id", "position")),
            *(("commands", column) for column in ("position", "count", "recorded_at", "checksum")),
            *(("logs", column) for column in ("position", "epoch", "commands_checksum", "rows_checksum")),
            *(("epochs", column) for column in ("epoch", "after", "checksum")),
        ]
    )
    key = {"events": "position", "event_tags": "position", "commands": "arrival", "logs": "log_id", "epochs": "epoch"}[
        table
    ]
    (number,) = _row(connection, chance, f"select {key} from {table}")
    by = chance.choice((-1, 1, 2, 1000))
    connection.execute(f"update or ignore {table} set {column} = {column} + ? where {key} = ?", (by, number))


def delete_a_row(connection: apsw.Connection, chance: random.Random) -> None:
    table = chance.choice(("events", "event_tags", "commands", "event_types", "epochs"))
    if table == "event_tags":
        row = _row(connection, chance, "select tag, type_id, position from event_tags")
        connection.execute("delete from event_tags where tag = ? and type_id = ? and position = ?", row)
        return
    column = {"events": "position", "commands": "arrival", "event_types": "type_id", "epochs": "epoch"}[table]
    connection.execute(
        f"delete from {table} where {column} = ?", _row(connection, chance, f"select {column} from {table}")
    )


def add_an_index_entry(connection: apsw.Connection, chance: random.Random) -> None:
    tag = chance.choice(("order:o-1", "item:i-3", "order:none", ""))
    entry = (1, tag, chance.randrange(1, 5), chance.randrange(1, EVENTS + 20))
    connection.execute("insert or ignore into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?)", entry)


def rename(connection: apsw.Connection, chance: random.Random) -> None:
    if chance.random() < 0.3:
        connection.execute("update logs set name = name || 'x'")
    elif chance.random() < 0.5:
        (number,) = _row(connection, chance, "select type_id from event_types")
        connection.execute("update event_types set name = name || 'x' where type_id = ?", (number,))
    else:
        (number,) = _row(connection, chance, "select arrival from commands")
        connection.execute("update commands set command_id = command_id || 'x' where arrival = ?", (number,))


def retag_in_the_index(connection: apsw.Connection, chance: random.Random) -> None:
    row = _row(connection, chance, "select tag, type_id, position from event_tags where tag <> ''")
    new = chance.choice(("order:o-1", "item:i-2", "order:other"))
    sql = "update or ignore event_tags set tag = ? where tag = ? and type_id = ? and position = ?"
    connection.execute(sql, (new, *row))


def swap_two_events(connection: apsw.Connection, chance: random.Random) -> None:
    one, two = chance.sample(range(1, EVENTS + 1), 2)
    connection.execute("update events set position = -1 where position = ?", (one,))
    connection.execute("update events set position = ? where position = ?", (one, two))
    connection.execute("update events set position = ? where position = -1", (two,))


def forge_a_chain(connection: apsw.Connection, chance: random.Random) -> None:
    column = chance.choice(("payload", "envelope"))
    one, two = chance.sample(range(1, EVENTS + 1), 2)
    sql = f"update events set {column} = (select {column} from events where position = ?) where position = ?"
    connection.execute(sql, (one, two))


def damage_the_head(connection: apsw.Connection, chance: random.Random) -> None:
    at = chance.randrange(0, EVENTS)
    connection.execute("update logs set position = ?", (at,))
    if at and chance.random() < 0.5:
        connection.execute("update logs set chain = (select chain from events where position = ?)", (at,))


BY_SQL: tuple[Change, ...] = (
    flip_in_a_remembered_command,
    change_a_row,
    flip_in_an_event,
    flip_in_an_event,
    change_a_number,
    change_a_number,
    delete_a_row,
    add_an_index_entry,
    rename,
    retag_in_the_index,
    swap_two_events,
    forge_a_chain,
    damage_the_head,
)


# Damages of bytes


def damage_bytes(path: Path, chance: random.Random) -> str:
    """Damage a file; what was done."""
    data = bytearray(path.read_bytes())
    page = 4096
    pages = len(data) // page
    kind = chance.choice(("bit", "bit", "bit", "byte", "byte", "zeros", "swapped pages", "copied page", "cut", "noise"))
    at = chance.randrange(len(data))
    if kind == "bit":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        data[at] = chance.randrange(256)
    elif kind == "zeros":
        length = chance.choice((4, 16, 512))
        data[at : at + length] = bytes(min(length, len(data) - at))
    elif kind == "noise":
        length = chance.choice((2, 8, 64))
        data[at : at + length] = chance.randbytes(min(length, len(data) - at))
    elif kind == "cut":
        data = data[:at]
    else:
        one, two = (number * page for number in chance.sample(range(1, pages), 2))
        first, second = bytes(data[one : one + page]), bytes(data[two : two + page])
        data[one : one + page] = second
        if kind == "swapped pages":
            data[two : two + page] = first
    path.write_bytes(data)
    return f"{kind} at {at}"


def damage(path: Path, chance: random.Random) -> str:
    """Damage a SQLite log by SQL or in its bytes; what was done."""
    if chance.random() < 0.5:
        return damage_bytes(path, chance)
    change = chance.choice(BY_SQL)
    connection = apsw.Connection(str(path))
    try:
        change(connection, chance)
    finally:
        connection.close()
    for end in ("-wal", "-shm"):
        if os.path.exists(f"{path}{end}"):
            os.remove(f"{path}{end}")
    return change.__name__
