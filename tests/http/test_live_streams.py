"""Streams of equal queries are sent the same bytes, which are held once, as long as one of them has not sent them."""

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from tests.http.bank_server import SHORT
from tests.http.stream_client_helpers import StreamClient, streaming
from tests.sample_domains.bank import Deposit
from tests.sample_domains.counter_app_helpers import until
from twofold import App
from twofold.http import asgi
from twofold.http.budgets import GRACE, Budget, SharedHolding
from twofold.http.exchange import PIECE
from twofold.testing.frozen_world import FrozenWorld

SIZE = 1_000_000
PATIENT = msgspec.structs.replace(SHORT, write_seconds=60.0)


async def test_equal_answers_to_many_slow_clients_are_held_once(app: App) -> None:
    api = asgi(app, limits=PATIENT)
    used = api.wire.budgets.answers
    async with AsyncExitStack() as stack:
        slow = [StreamClient(api, "/queries/long", f"size={SIZE}", reads=False) for _ in range(10)]
        for client in slow:
            await stack.enter_async_context(streaming(client))
        await until(lambda: all(client.refused for client in slow), "the first piece of each")
        assert SIZE < used.used < SIZE + 1_000
        other = StreamClient(api, "/queries/long", f"size={SIZE + 1}", reads=False)
        async with streaming(other):
            await until(lambda: other.refused, "the first piece of another query")
            assert 2 * SIZE < used.used < 2 * SIZE + 1_000
        assert SIZE < used.used < SIZE + 1_000
    assert used.used == 0
    assert len(app.queries._live) == 0


async def test_a_client_that_reads_gets_new_answers_while_others_do_not_read(app: App) -> None:
    api = asgi(app, limits=PATIENT)
    slow = StreamClient(api, "/queries/balance-of", "account_id=a", reads=False)
    fast = StreamClient(api, "/queries/balance-of", "account_id=a")
    async with streaming(slow), streaming(fast):
        await until(lambda: slow.refused and fast.pieces, "the first answers")
        for cents in (1, 2, 3):
            await app.send(Deposit("a", 1))
            await until(lambda cents=cents: f'"cents":{cents}'.encode() in fast.pieces[-1], "the next answer")
    assert len(fast.pieces) == 4
    assert max(map(len, fast.pieces)) < PIECE


async def test_all_streams_that_still_hold_bytes_are_cut_off_when_others_need_the_memory() -> None:
    world = FrozenWorld()
    budget = Budget(world, 100_000)
    shared = SharedHolding(budget, 60_000)
    done = budget.begin()
    slow = [budget.begin() for _ in range(2)]
    cut: list[int] = []
    for number, stream in enumerate(slow):
        stream.cancel = lambda number=number: cut.append(number)
    with shared.held_for(slow[0]), shared.held_for(slow[1]):
        with shared.held_for(done):
            assert budget.used == 60_000
        await world.advance(GRACE + 0.1)
        new = budget.begin()
        new.resize(90_000)
        assert sorted(cut) == [0, 1] and all(stream.was_cut for stream in slow) and not done.was_cut
        assert budget.used == 90_000
    assert budget.used == 90_000
    new.release()
    assert budget.used == 0


async def test_small_answers_are_not_counted() -> None:
    budget = Budget(FrozenWorld(), 100_000)
    with SharedHolding(budget, 10_000).held_for(budget.begin()):
        assert budget.used == 0


@pytest.mark.parametrize("leaves", ["before", "after"])
async def test_a_stream_that_leaves_leaves_no_listener(app: App, leaves: str) -> None:
    api = asgi(app, limits=PATIENT)
    client = StreamClient(api, "/queries/balance-of", "account_id=a")
    async with streaming(client):
        if leaves == "after":
            await until(lambda: client.pieces, "the first answer")
        else:
            await asyncio.sleep(0)
    assert len(app.queries._live) == 0
