"""Measures a projection that catches up with a long log, against the bare driver's batched upserts."""

import asyncio
import time
from pathlib import Path

import apsw

from benchmarks.bank import WHOLE, Balance, bank
from benchmarks.harness import Result, compare, result, run
from twofold.codec import MessageCodec
from twofold.domain.events import Metadata
from twofold.sqlite_file import open_connection
from twofold.write_store.port import Append
from twofold.write_store.sqlite import SqliteWriteStore

_UPSERT = "insert into rows (key, row) values (?, ?) on conflict (key) do update set row = excluded.row"


async def _catch_up(folder: Path, events: int, keys: int) -> float:
    app = bank(folder, WHOLE)
    store = SqliteWriteStore(folder / "log.db")
    from_bank = next(iter(app.wiring.events.values())).type
    for start in range(0, events, 10_000):
        new = tuple(
            app.events.encode(from_bank(f"a-{n % keys}", 1), f"c-{n}", 0)
            for n in range(start, min(events, start + 10_000))
        )
        await store.append([Append(Metadata(1_700_000_000_000_000, f"c-{start}", f"c-{start}"), new)])
    await store.close()
    async with app:
        began = time.perf_counter()
        while True:
            (follower,) = (await app.status()).followers
            if follower.position == events:
                return events / (time.perf_counter() - began)
            await asyncio.sleep(0.005)


def _upserts(folder: Path, events: int, keys: int) -> float:
    """Rows a second: encoded and upserted a thousand at a time, with a checkpoint in the same transaction."""
    connection: apsw.Connection = open_connection(folder / "raw.db")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table rows (key text primary key, row blob) strict, without rowid")
    connection.execute("create table checkpoint (position integer) strict")
    connection.execute("insert into checkpoint values (0)")
    encode = MessageCodec().encode
    began = time.perf_counter()
    for start in range(0, events, 1_000):
        rows = [(f"a-{n % keys}", encode(Balance(f"a-{n % keys}", 1, 1))) for n in range(start, start + 1_000)]
        connection.execute("begin immediate")
        connection.executemany(_UPSERT, rows)
        connection.execute("update checkpoint set position = ?", (start + 1_000,))
        connection.execute("commit")
    took = time.perf_counter() - began
    connection.close()
    return events / took


def catch_up(rounds: int, seconds: float) -> list[Result]:
    """Events a second from the log into rows, exactly once."""
    events = max(10_000, round(100 * seconds) * 1_000)
    found: list[Result] = []
    for label, keys in (("a row for each event", events), ("a thousand rows", 1_000)):
        figures = compare(
            rounds,
            ours=lambda folder, k=keys: run(_catch_up(folder, events, k)),
            raw=lambda folder, k=keys: _upserts(folder, events, k),
        )
        found.append(result(f"catch-up, {label}", figures, "ours", "raw", "ev/s", must=0.6, ambition=0.8))
    return found
