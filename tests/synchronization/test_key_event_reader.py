"""The reader of one key's events, and that of pages up to a position, end where the log ends."""

import asyncio

import pytest

from tests.sample_domains.counters import Count, Counted, counters
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import Unavailable
from twofold.settings import Settings
from twofold.synchronization.key_event_reader import KeyEventReader
from twofold.write_store.history import read_up_to


async def test_a_log_that_ends_before_the_last_position_is_an_error_and_no_endless_loop() -> None:
    async with App(counters(), write_store="memory:", read_store="memory:", settings=Settings()) as app:
        for by in (1, 2):
            await app.send(Count(["a"], by))
        running = app._running
        assert running is not None
        log = running.write_store
        reader = KeyEventReader(app.wiring.projections["totals"], log, app.events.decode)
        said = "The log ends at position 2, but events up to 5 are needed"
        async with asyncio.timeout(30):
            assert (await reader.of("a", 0, 2)).events == [Counted(["a"], 1), Counted(["a"], 2)]
            with pytest.raises(Unavailable, match=said):
                await reader.of("a", 0, 5)
            assert (await read_up_to(log, ALL_EVENTS, 0, 10, 5)).upto == 2
            with pytest.raises(Unavailable, match=said):
                await read_up_to(log, ALL_EVENTS, 2, 10, 5)
