"""The same log, fold and question give the same answer on every read store, however the log was paged and followed."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Annotated, Any

import msgspec
import pytest

from tests.servers.cassandra import fresh_keyspace
from tests.servers.mongodb import fresh_database
from tests.servers.postgres import fresh_schema
from twofold.codec import EventCodec
from twofold.domain.envelope import Metadata
from twofold.domain.module import Module, Wiring
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import InvalidMessage
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.partition import Partition, shares
from twofold.read_store.port import ReadModel, ReadStore
from twofold.stores import open_read_store
from twofold.synchronization.projector import Projector, ProjectorIO, ProjectorOptions
from twofold.testing.read_store_rows import HOSTILE
from twofold.world import RealWorld
from twofold.write_store.history import HistoryCheck
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append

ThingId = Annotated[str, Tag("thing")]
TEXTS = [None, "", "ann", "bob", "Ann", "é", "\U0001f4a5", "a b", "zz"]
KEYS = [
    "a",
    "b",
    "c",
    "d",
    "é",
    "Z",
    "\U0001f4a5",
    *(text for text in HOSTILE if text.isprintable() and len(text) < 99),
]


class Put(msgspec.Struct, frozen=True):
    things: list[ThingId]
    customer: str | None
    total: int
    note: str | None
    money: Decimal


class Removed(msgspec.Struct, frozen=True):
    things: list[ThingId]


class Thing(msgspec.Struct, frozen=True):
    customer: str | None
    total: int
    note: str | None
    money: Decimal
    seen: list[int]


def replaced(row: Thing | None, event: Put | Removed) -> Thing | None:
    if isinstance(event, Removed):
        return None
    return Thing(event.customer, event.total, event.note, event.money, [event.total])


def summed(row: Thing | None, event: Put | Removed) -> Thing | None:
    """Depends on every event before and on their order."""
    if isinstance(event, Removed):
        return None if row is None or row.total % 2 else Thing(None, row.total // 2, row.note, row.money, [])
    if row is None:
        return Thing(event.customer, event.total, event.note, event.money, [event.total])
    seen = [*row.seen[-3:], event.total]
    return Thing(event.customer, row.total + event.total, event.note or row.note, row.money + event.money, seen)


def shy(row: Thing | None, event: Put | Removed) -> Thing | None:
    """Makes and unmakes rows all the time."""
    return replaced(row, event) if row is None else None


FIND_BY = [("customer",), ("customer", "note"), ("total",)]
ORDER_BY = ["total", "note", "money"]
FOLDS = [replaced, summed, shy]


@pytest.fixture(params=["sqlite", "postgresql", "mongodb", "cassandra"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty read store of each kind."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/views.db"
        case "postgresql":
            return f"{request.getfixturevalue('postgres_newest').dsn}?schema={fresh_schema()}"
        case "mongodb":
            return str(request.getfixturevalue("mongodb").url_of(fresh_database()))
        case _:
            return str(request.getfixturevalue("cassandra").url(fresh_keyspace()))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ReadStore]:
    store = await open_read_store(url, RealWorld())
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.timeout(300)
async def test_every_store_answers_what_the_one_in_memory_answers(url: str) -> None:
    async with opened(url) as store:
        for seed in range(6 if url.startswith("cassandra") else 25):
            await _compare(store, Random(seed), seed + 1)


async def _compare(store: ReadStore, random: Random, generation: int) -> None:
    wiring = Wiring([Module("m", events=[Put, Removed], projections=[_projection(random)])])
    codec = EventCodec(wiring.events.values())
    log = await _log(codec, random)
    (projection,) = wiring.projections.values()
    model = ReadModel("things", generation, Thing, projection.find_by, projection.order_by, random.choice([1, 1, 3]))
    plain = MemoryReadStore()
    for read_store in (plain, store):
        await read_store.prepare([model])
        for partition in shares(model.partitions):
            await _follow(read_store, log, codec, projection, model, partition, random)
    async with plain.snapshot() as expected, store.snapshot() as found:
        assert (await found.progress(model)).position == (await expected.progress(model)).position
        for _ in range(25):
            await _ask(expected, found, model, random)
        for key in KEYS:
            assert await found.get(model, key) == await expected.get(model, key)
    assert await store.raw_rows("things", generation, "", 1_000) == await plain.raw_rows(
        "things", generation, "", 1_000
    )
    await store.drop("things", generation)


def _projection(random: Random) -> Projection:
    return Projection("things", random.choice(FOLDS), key=ThingId, find_by=FIND_BY, order_by=ORDER_BY)


async def _log(codec: EventCodec, random: Random) -> MemoryWriteStore:
    log = MemoryWriteStore()
    for n in range(random.randint(0, 60)):
        things = random.sample(KEYS, random.randint(1, 4))
        event: Put | Removed = Removed(things)
        if random.random() < 0.8:
            money = Decimal(random.randint(-500, 500)) / 100
            event = Put(things, random.choice(TEXTS), random.randint(-3, 9), random.choice(TEXTS), money)
        await log.append([Append(Metadata(n, f"c{n}", f"c{n}"), (codec.encode(event, f"c{n}", 0),))])
    return log


async def _follow(
    read_store: ReadStore,
    log: MemoryWriteStore,
    codec: EventCodec,
    projection: Any,
    model: ReadModel,
    share: Partition,
    random: Random,
) -> None:
    """Take the log in random pages; now and then another follower goes on where the store says."""
    epoch = 1
    head = len(log._events)
    cached = random.choice([0, 2, 1_000])

    def follower() -> Projector:
        return Projector(
            projection,
            model,
            ProjectorIO(log, read_store, codec.decode, RealWorld(), HistoryCheck(log)),
            share,
            epoch,
            ProjectorOptions(cached_rows=cached),
        )

    projector = follower()
    position = await projector.open()
    while position < head:
        page = await log.read(projector.query, position, random.randint(1, 20))
        await projector.apply(page, position)
        position = page.upto
        if random.random() < 0.2:
            epoch += 1
            projector = follower()
            assert await projector.open() == position


async def _ask(expected: Any, found: Any, model: ReadModel, random: Random) -> None:
    group: Sequence[str] = random.choice([(), *FIND_BY])
    values = {"customer": random.choice(TEXTS), "note": random.choice(TEXTS), "total": random.randint(-3, 9)}
    question = {
        "order_by": random.choice([None, *ORDER_BY]),
        "descending": random.random() < 0.5,
        "limit": random.choice([1, 2, 5, 1_000]),
    }
    filters = {field: values[field] for field in group}
    cursor: str | None = None
    while True:
        wanted = await expected.find(model, filters, cursor=cursor, **question)
        assert await found.find(model, filters, cursor=cursor, **question) == wanted, (filters, question, cursor)
        cursor = wanted.cursor
        if cursor is None:
            break
    with pytest.raises(InvalidMessage):
        await found.find(model, filters, cursor="nonsense", **question)
