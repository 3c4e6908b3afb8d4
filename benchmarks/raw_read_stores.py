"""The bare drivers of read stores: a thousand rows upserted at a time, then a checkpoint."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pymongo
from bson import Int64
from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent_with_args

from benchmarks.bank import Balance
from twofold.codec import MessageCodec
from twofold.sqlite_file import open_connection

BATCH = 1_000

Row = tuple[str, bytes, int]


def batches(events: int, keys: int) -> Iterator[list[Row]]:
    """Encoded rows with the position of their event, a batch at a time; a key comes once in a batch."""
    encode = MessageCodec().encode
    for start in range(0, events, BATCH):
        rows = {f"a-{n % keys}": n + 1 for n in range(start, min(events, start + BATCH))}
        yield [(key, encode(Balance(key, 1, 1)), position) for key, position in rows.items()]


def sqlite(folder: Path, events: int, keys: int) -> float:
    """Events a second."""
    connection: apsw.Connection = open_connection(folder / "raw.db")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table rows (key text primary key, row blob, position integer) strict, without rowid")
    connection.execute("create table checkpoint (position integer) strict")
    connection.execute("insert into checkpoint values (0)")
    upsert = (
        "insert into rows values (?, ?, ?)"
        " on conflict (key) do update set row = excluded.row, position = excluded.position"
    )
    began = time.perf_counter()
    for rows in batches(events, keys):
        connection.execute("begin immediate")
        connection.executemany(upsert, rows)
        connection.execute("update checkpoint set position = ?", (rows[-1][2],))
        connection.execute("commit")
    took = time.perf_counter() - began
    connection.close()
    return events / took


async def postgresql(dsn: str, events: int, keys: int) -> float:
    """Events a second."""
    # Nor do ours wait for the disk.
    connection: Any = await asyncpg.connect(dsn, server_settings={"synchronous_commit": "off"})
    await connection.execute("drop table if exists raw_rows, raw_checkpoint")
    await connection.execute('create table raw_rows (key text collate "C" primary key, row json, position bigint)')
    await connection.execute("create table raw_checkpoint (position bigint)")
    await connection.execute("insert into raw_checkpoint values (0)")
    upsert = await connection.prepare(
        "insert into raw_rows select * from unnest($1::text[], $2::json[], $3::bigint[])"
        " on conflict (key) do update set row = excluded.row, position = excluded.position"
    )
    began = time.perf_counter()
    for rows in batches(events, keys):
        async with connection.transaction():
            await connection.execute("update raw_checkpoint set position = $1", rows[-1][2])
            await upsert.fetch([r[0] for r in rows], [r[1].decode() for r in rows], [r[2] for r in rows])
    took = time.perf_counter() - began
    await connection.close()
    return events / took


async def mongodb(url: str, events: int, keys: int) -> float:
    """Events a second."""
    async with pymongo.AsyncMongoClient(url, w="majority", journal=True) as client:
        database = client["raw"]
        await client.drop_database("raw")
        began = time.perf_counter()
        for rows in batches(events, keys):
            updates = [
                pymongo.ReplaceOne({"_id": key}, {"row": row, "position": Int64(position)}, upsert=True)
                for key, row, position in rows
            ]
            await database.rows.bulk_write(updates, ordered=False)
            await database.checkpoint.update_one({"_id": 1}, {"$set": {"position": rows[-1][2]}}, upsert=True)
        return events / (time.perf_counter() - began)


def cassandra(port: int, events: int, keys: int) -> float:
    """Events a second, into one table by key and one by the account, as the read model has them too."""
    with Cluster(["127.0.0.1"], port=port) as cluster:
        session: Any = cluster.connect()
        session.execute("drop keyspace if exists raw")
        session.execute("create keyspace raw with replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
        session.execute("create table raw.by_key (key text primary key, row blob, position bigint)")
        session.execute("create table raw.all_rows (bucket int, key text, row blob, primary key (bucket, key))")
        session.execute("create table raw.checkpoint (id int primary key, position bigint)")
        by_key = session.prepare("insert into raw.by_key (key, row, position) values (?, ?, ?) using timestamp ?")
        all_rows = session.prepare("insert into raw.all_rows (bucket, key, row) values (?, ?, ?) using timestamp ?")
        began = time.perf_counter()
        for rows in batches(events, keys):
            execute_concurrent_with_args(
                session, all_rows, [(hash(k) % 8, k, row, p) for k, row, p in rows], concurrency=128
            )
            execute_concurrent_with_args(session, by_key, [(*row, row[2]) for row in rows], concurrency=128)
            session.execute("insert into raw.checkpoint (id, position) values (1, %s)", (rows[-1][2],))
        return events / (time.perf_counter() - began)
