"""What a URL and a server must be like, and the errors if they are not. No error shows a password."""

import asyncio
import time
from pathlib import Path

import pymongo
import pytest

from tests.patience import giving_up_after
from tests.read_store.mongodb_helpers import WITH_SERVERS_AWAY, database, opened
from tests.servers.mongodb import Mongod, ReplicaSet, fresh_database
from tests.servers.server import LOOPBACK, free_port
from twofold.errors import Unavailable, WiringError
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.mongodb.address import address_of
from twofold.stores import open_read_store
from twofold.testing.read_store_rows import ORDERS, Order, keep
from twofold.world import RealWorld

pytestmark = WITH_SERVERS_AWAY

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "database", "shown"),
    [
        ("mongodb://h", "twofold", "h/twofold"),
        ("mongodb://h/", "twofold", "h/twofold"),
        ("mongodb://h/?replicaSet=rs0", "twofold", "h/twofold"),
        (f"mongodb://ann:{SECRET}@h1:1,h2:2/views?replicaSet=rs0", "views", "h1:1,h2:2/views"),
        (f"mongodb+srv://ann:{SECRET}@example.com/%C3%A9?tls=true", "é", "example.com/é"),
        ("mongodb://[::1]:27017/v", "v", "[::1]:27017/v"),
    ],
)
def test_a_url_names_servers_and_perhaps_a_database(url: str, database: str, shown: str) -> None:
    address = address_of(url)
    assert (address.url, address.database, address.shown) == (url, database, shown)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb:///views",
        "mongodb://h1,,h2/views",
        f"mongodb://ann:{SECRET}/x@h/views",
        f"mongodb://ann:{SECRET}@h:port/views",
        f"mongodb://ann:{SECRET}@h:99999/views",
        f"mongodb://ann:{SECRET}@@h/views",
        f"mongodb://ann:{SECRET}%zz@h/views",
        f"mongodb://ann:{SECRET}:x@h/views",
        f"mongodb://ann:{SECRET}@h/%ff",
        f"mongodb://ann:{SECRET}@[h/views",
    ],
)
async def test_a_url_that_cannot_be_read_is_told_with_the_way_to_write_it_and_without_its_password(url: str) -> None:
    with pytest.raises(WiringError, match="Write mongodb://user:password@host1,host2/database") as refused:
        await MongoReadStore.open(url)
    assert SECRET not in str(refused.value)
    # Nor in what would be printed below it.
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("name", ["a.b", "a b", "a%24b", 'a%22"', "a/b", "x" * 64, "é" * 32, "a%00"])
async def test_a_database_that_mongodb_has_no_name_for_is_told(name: str) -> None:
    with pytest.raises(WiringError, match=r"The database .* is invalid"):
        await MongoReadStore.open(f"mongodb://h/{name}")


async def test_a_store_is_opened_by_its_url(mongodb_url: str) -> None:
    store = await open_read_store(mongodb_url, RealWorld())
    assert isinstance(store, MongoReadStore)
    await keep(store, ORDERS, {"a": Order()})
    await store.close()


async def test_one_seed_is_enough_and_nothing_is_changed_by_what_the_url_says_of_durability(
    mongodb: ReplicaSet,
) -> None:
    url = f"mongodb://{mongodb.nodes[0].address}/{fresh_database()}"
    careless = f"{url}?w=0&journal=false&readPreference=secondaryPreferred&readConcernLevel=available&retryWrites=true"
    async with opened(careless) as store, database(url) as found:
        # With w=0 there would be no answers to rely on, and no errors.
        await keep(store, ORDERS, {"a": Order()})
        assert await found["rows.orders@1"].count_documents({}) == 1
        concern = store._connection.database.write_concern.document
        assert concern == {"w": "majority", "j": True}
        assert store._connection.collection("x").read_preference == pymongo.ReadPreference.PRIMARY


async def test_a_server_outside_a_replica_set_is_refused_with_the_cure(mongod_here: Path) -> None:
    with Mongod(mongod_here, replica_set=False) as alone:
        for parameters in ("", "?replicaSet=rs0", "?directConnection=true"):
            with pytest.raises(WiringError, match=r"not in a replica set.*rs\.initiate\(\).*\?replicaSet=rs0"):
                await MongoReadStore.open(f"mongodb://{alone.address}/v{parameters}", patience=1.0)


async def test_a_replica_set_that_nobody_has_initiated_is_refused_with_the_cure(mongod_here: Path) -> None:
    with Mongod(mongod_here) as raw:
        for parameters in ("", "?replicaSet=rs0"):
            with pytest.raises(WiringError, match=r"rs\.initiate\(\)"):
                await MongoReadStore.open(f"mongodb://{raw.address}/v{parameters}", patience=1.0)


async def test_another_replica_set_than_the_one_named_is_refused_by_its_name(mongodb: ReplicaSet) -> None:
    (node,) = mongodb.nodes
    with pytest.raises(WiringError, match=r"replica set 'rs0', not in 'other'.*\?replicaSet=rs0"):
        await MongoReadStore.open(f"mongodb://{node.address}/v?replicaSet=other", patience=1.0)


async def test_a_wrong_password_is_refused_and_not_shown(mongodb: ReplicaSet) -> None:
    (node,) = mongodb.nodes
    with pytest.raises(WiringError, match="refuses the user or the password") as refused:
        await MongoReadStore.open(f"mongodb://ann:{SECRET}@{node.address}/v")
    assert SECRET not in str(refused.value)


async def test_a_user_of_the_database_is_let_in(mongodb: ReplicaSet) -> None:
    name = fresh_database()
    with pymongo.MongoClient[dict[str, object]](mongodb.url) as client:
        roles = [{"role": "readWrite", "db": name}]
        client["admin"].command("createUser", f"user-{name}", pwd=f"{SECRET}@/:", roles=roles)
    hosts = mongodb.nodes[0].address
    async with opened(f"mongodb://user-{name}:{SECRET}%40%2F%3A@{hosts}/{name}?authSource=admin") as store:
        await keep(store, ORDERS, {"a": Order()})


async def test_a_server_that_is_away_is_unavailable_before_long() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=f"MongoDB at {LOOPBACK}:.*cannot be reached") as away:
        await MongoReadStore.open(f"mongodb://ann:{SECRET}@{LOOPBACK}:{free_port()}/v?replicaSet=rs0", patience=0.5)
    assert time.monotonic() - began < 30
    assert SECRET not in str(away.value)
    assert len(str(away.value)) < 700


async def test_a_server_that_does_not_answer_is_unavailable_before_long() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(silent, LOOPBACK, port):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await MongoReadStore.open(f"mongodb://{LOOPBACK}:{port}/v", patience=0.5)
        assert time.monotonic() - began < 30


async def test_a_server_that_goes_away_is_unavailable_once_patience_has_ended_and_is_used_again_when_back(
    mongod_here: Path,
) -> None:
    with ReplicaSet(mongod_here) as servers:
        (node,) = servers.nodes
        async with opened(servers.url_of("v"), patience=60.0) as store:
            await keep(store, ORDERS, {"a": Order()})
            node.kill()
            began = time.monotonic()
            with giving_up_after(1.0, store):
                calls = (store.load(ORDERS, ["a"]), keep(store, ORDERS, {"a": Order()}, before=1), store.checkpoints())
                for call in calls:
                    with pytest.raises(Unavailable, match="cannot be reached"):
                        await call
                async with store.snapshot() as snapshot:
                    with pytest.raises(Unavailable):
                        await snapshot.get(ORDERS, "a")
            assert time.monotonic() - began < 40
            node.start()
            assert servers.primary is node
            await keep(store, ORDERS, {"a": Order(total=2)}, before=1)
            assert (await store.load(ORDERS, ["a"]))["a"].row == Order(total=2)


async def test_a_store_that_is_closed_answers_nothing_more(mongodb_url: str) -> None:
    store = await MongoReadStore.open(mongodb_url)
    await keep(store, ORDERS, {"a": Order()})
    await asyncio.gather(store.close(), store.close())
    for call in (store.load(ORDERS, ["a"]), store.prepare([ORDERS]), store.checkpoints()):
        with pytest.raises(Unavailable, match="closed"):
            await call
    async with store.snapshot() as snapshot:
        with pytest.raises(Unavailable, match="closed"):
            await snapshot.get(ORDERS, "a")
