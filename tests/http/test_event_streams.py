"""A stream of events goes out in pages: many events in one piece, counted in bytes, with turns for others between."""

import asyncio

import msgspec

from tests.http.bank_server import SHORT
from tests.http.stream_client_helpers import StreamClient, streaming
from tests.sample_domains.bank import Deposit
from tests.sample_domains.counter_app_helpers import until
from twofold import App
from twofold.http import Api, asgi
from twofold.http.exchange import PIECE

EVENTS = 300


async def deposits(app: App, count: int) -> list[str]:
    """The tokens of so many events that are in the log now."""
    receipts = await asyncio.gather(*(app.send(Deposit(f"account-{n}", 1)) for n in range(count)))
    return [receipt.token for receipt in sorted(receipts, key=lambda receipt: receipt.position)]


async def test_a_page_of_events_is_sent_in_few_pieces(app: App, api: Api) -> None:
    tokens = await deposits(app, EVENTS)
    client = StreamClient(api)
    async with streaming(client):
        await until(lambda: len(client.ids) == EVENTS, "all events")
        assert client.ids == tokens
        assert len(client.pieces) < EVENTS / 30
        assert max(map(len, client.pieces)) <= PIECE
        # New ones come too, and none comes twice.
        tokens += await deposits(app, 3)
        await until(lambda: client.ids == tokens, "the new events")


async def test_others_have_turns_while_a_page_is_sent_to_a_client_that_reads_fast(app: App, api: Api) -> None:
    await deposits(app, EVENTS)
    turns = 0
    seen: list[int] = []

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    client = StreamClient(api, received=lambda: seen.append(turns))
    others = asyncio.create_task(other())
    async with streaming(client):
        await until(lambda: len(client.ids) == EVENTS, "all events")
    others.cancel()
    # A piece that is longer than what is written at once has its rest in the same turn.
    ends = [turn for turn, piece in zip(seen, client.pieces, strict=True) if piece.endswith(b"\n\n")]
    assert len(ends) > 3
    assert sorted(set(ends)) == ends


async def test_a_stream_counts_many_small_events_that_its_client_does_not_read(app: App) -> None:
    api = asgi(app, limits=msgspec.structs.replace(SHORT, write_seconds=60.0))
    await deposits(app, EVENTS)
    client = StreamClient(api, reads=False)
    async with streaming(client):
        await until(lambda: client.refused == 1, "the first piece")
        # As objects the events take far more than the bytes of their payloads.
        assert EVENTS * 500 < api.wire.budgets.answers.used < EVENTS * 1_200
    assert api.wire.budgets.answers.used == 0


async def test_a_stream_that_is_up_to_date_holds_nothing(app: App, api: Api) -> None:
    await deposits(app, EVENTS)
    client = StreamClient(api)
    async with streaming(client):
        await until(lambda: len(client.ids) == EVENTS, "all events")
        await until(lambda: api.wire.budgets.answers.used == 0, "nothing is held")
