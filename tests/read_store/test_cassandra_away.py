"""A Cassandra server that is killed, slow or unreachable: Unavailable within a time limit, then as before."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import msgspec
import pytest

from tests.read_store.cassandra_follower import Interruption, make_interruptible, start_save
from tests.servers.cassandra import Cassandra, fresh_keyspace
from tests.servers.server import free_port
from twofold.errors import Unavailable, WiringError
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.port import Change, VersionedRow
from twofold.stores import open_read_store
from twofold.testing.read_store_rows import LOG, ORDERS, Order, at, find, found_rows, keep, keys, progress
from twofold.world import RealWorld

PATIENCE = 2.0
BOUND = 20.0
"""Seconds that a call with that patience may take on a busy machine."""


@pytest.fixture(scope="module")
def server(cassandra_here: None) -> Iterator[Cassandra]:
    """A node for this module alone: with accounts, and one that can be stopped and killed."""
    with Cassandra(durable=True, accounts=True) as node:
        yield node


def _url(server: Cassandra, keyspace: str, account: str = "cassandra:cassandra@") -> str:
    return server.url(keyspace).replace("//", f"//{account}", 1)


@pytest.fixture
async def store(server: Cassandra) -> AsyncIterator[CassandraReadStore]:
    store = await CassandraReadStore.open(_url(server, fresh_keyspace()), patience=30.0)
    await keep(store, ORDERS, {"a": Order(), "b": Order("bob")})
    store._connection._patience = PATIENCE
    yield store
    await store.close()


async def _within(seconds: float, waiting: Awaitable[Any]) -> str:
    """The message of Unavailable, which must be raised within so many seconds."""
    begin = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await waiting
    assert time.monotonic() - begin < seconds
    return str(refused.value)


async def test_a_server_killed_during_saves_is_unavailable_and_they_are_made_good(
    server: Cassandra, store: CassandraReadStore
) -> None:
    make_interruptible(store)
    models = [msgspec.structs.replace(ORDERS, generation=n) for n in range(2, 7)]
    rows = {"a": VersionedRow(Order("cid", 2), 2, 0, (Order(),)), "b": VersionedRow(None, 2, 0, (Order("bob"),))}
    changes = [Change(model, LOG, 1, 2, 0, rows) for model in models]
    for model in models:
        await keep(store, model, {"a": Order(), "b": Order("bob")})
    patient = await CassandraReadStore.open(_url(server, store._connection.address.keyspace), patience=90.0)
    await patient.prepare([ORDERS])
    hanging = [Interruption(statements, waits=True) for statements in range(len(models))]
    saving = [await start_save(store, change, each) for change, each in zip(changes, hanging, strict=True)]
    server.kill()
    try:
        for each in hanging:
            each.release()
        waits = asyncio.create_task(patient.save(Change(ORDERS, LOG, 1, 2, 0, rows)))
        said = await asyncio.gather(*(_within(BOUND, each) for each in saving))
        assert all("did not respond" in each or "did not say" in each for each in said)
        assert not any("cassandra:cassandra" in each for each in said)
        asked = (store.load(ORDERS, ["a"]), find(store, ORDERS), progress(store, ORDERS), store.checkpoints())
        await asyncio.gather(*(_within(BOUND, each) for each in asked))
    finally:
        server.start()
    await waits
    await patient.close()
    store._connection._patience = 90.0
    for model, change in zip(models, changes, strict=True):
        if (await progress(store, model)).position == 1:
            await store.save(change)
    for model in (ORDERS, *models):
        assert await found_rows(store, model, order_by="total") == [("a", Order("cid", 2))]
        assert [await keys(store, model, {"customer": each}) for each in ("ann", "bob", "cid")] == [[], [], ["a"]]
        assert (await progress(store, model)).position == 2


async def test_a_server_that_hangs_is_unavailable_and_then_goes_on(
    server: Cassandra, store: CassandraReadStore
) -> None:
    assert server.process is not None
    change = Change(ORDERS, LOG, 1, 2, 0, at(2, {"b": Order("bob", 5)}))
    server.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.gather(*(_within(BOUND, each) for each in (store.save(change), find(store, ORDERS))))
    finally:
        server.process.send_signal(signal.SIGCONT)
    store._connection._patience = 60.0
    if (await progress(store, ORDERS)).position == 1:
        await store.save(change)
    assert await found_rows(store, ORDERS, {"customer": "bob"}) == [("b", Order("bob", 5))]


async def test_a_server_nobody_reaches_is_unavailable_within_bounds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            url = f"cassandra://u:secret@127.0.0.1:{port}/x"
            said = await _within(BOUND, CassandraReadStore.open(url, patience=PATIENCE))
            assert "secret" not in said
            assert str(port) in said


@pytest.mark.parametrize("account", ["nobody:wr0ng@", "cassandra:wr0ng@", ""])
async def test_an_account_that_is_not_let_in_is_named_without_its_password(server: Cassandra, account: str) -> None:
    with pytest.raises(WiringError, match=r"refuses .*\. Write cassandra://user:password@") as refused:
        await CassandraReadStore.open(_url(server, "x", account))
    assert (account.partition(":")[0] or "without a user") in str(refused.value)
    assert "wr0ng" not in str(refused.value)


async def test_an_account_without_rights_is_told_which_it_needs(server: Cassandra, store: CassandraReadStore) -> None:
    await store._connection.define("create role if not exists app with password = 'app' and login = true")
    fresh = fresh_keyspace()
    with pytest.raises(WiringError, match=r"user 'app' may not do this.*create keyspaces"):
        await CassandraReadStore.open(_url(server, fresh, "app:app@"))
    await (await CassandraReadStore.open(_url(server, fresh))).close()
    for right in ("select", "modify"):
        await store._connection.define(f"grant {right} on keyspace {fresh} to app")
    app = await CassandraReadStore.open(_url(server, fresh, "app:app@"))
    with pytest.raises(WiringError, match=r"user 'app' may not do this.*create, alter, drop, read and write tables"):
        await app.prepare([ORDERS])
    await app.close()


async def test_a_datacenter_that_is_not_there_is_named_with_those_that_are(server: Cassandra) -> None:
    with pytest.raises(WiringError, match=r"no datacenter 'moon'.*\?datacenter=datacenter1"):
        await CassandraReadStore.open(_url(server, "x") + "&datacenter=moon")


async def test_a_connection_may_be_encrypted_and_is_to_nobody_but_the_server_that_is_trusted(
    server: Cassandra, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = _url(server, fresh_keyspace()) + "&tls=true"
    said = await _within(BOUND, CassandraReadStore.open(url, patience=PATIENCE))
    assert "CERTIFICATE_VERIFY_FAILED" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    store = await CassandraReadStore.open(url)
    await keep(store, ORDERS, {"a": Order()})
    assert await keys(store, ORDERS) == ["a"]
    await store.close()


def _threads() -> set[str]:
    # The driver's one event loop stays until the program ends, as do those asyncio keeps for `to_thread`.
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name != "event_loop" and not name.startswith("asyncio_")}


async def test_a_closed_store_answers_nothing_more_and_leaves_no_threads(server: Cassandra) -> None:
    before = _threads()
    store = await CassandraReadStore.open(_url(server, fresh_keyspace()))
    await keep(store, ORDERS, {"a": Order()})
    await store.close()
    await store.close()
    for call in (find(store, ORDERS), store.load(ORDERS, ["a"]), store.save(Change(ORDERS, LOG, 1, 2, 0))):
        assert "is closed" in await _within(5.0, call)
    assert _threads() == before


async def test_calls_under_way_when_the_store_is_closed_come_to_an_end(store: CassandraReadStore) -> None:
    calls = [asyncio.create_task(store.load(ORDERS, [f"k{n}" for n in range(5_000)])) for _ in range(3)]
    await asyncio.sleep(0)
    await store.close()
    for end in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(end, Unavailable | dict)


@pytest.mark.parametrize("turns", [1, 3, 30, 300])
async def test_an_opening_that_is_cancelled_leaves_no_threads(server: Cassandra, turns: int) -> None:
    before = _threads()
    opening = asyncio.create_task(CassandraReadStore.open(_url(server, fresh_keyspace())))
    for _ in range(turns):
        await asyncio.sleep(0.001)
    opening.cancel()
    (end,) = await asyncio.gather(opening, return_exceptions=True)
    if isinstance(end, CassandraReadStore):
        await end.close()
    for _ in range(200):
        if _threads() == before:
            break
        await RealWorld().sleep(0.05)
    assert _threads() == before


async def test_the_url_of_a_read_store_brings_one_in_cassandra(server: Cassandra) -> None:
    store = await open_read_store(_url(server, fresh_keyspace()), RealWorld())
    assert isinstance(store, CassandraReadStore)
    await store.close()


def test_a_driver_without_its_event_loop_is_told_how_to_get_it() -> None:
    program = (
        "import sys, warnings; sys.modules['cassandra.io.libevwrapper'] = None\n"
        "from twofold.errors import WiringError\n"
        "try:\n    import twofold.read_store.cassandra\nexcept WiringError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "built without libev" in said
    assert "Install a wheel" in said
