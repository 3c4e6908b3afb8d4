"""Audits beside events and followers: they find exactly the rows that are wrong."""

import asyncio
from random import Random

import pytest

from tests.operations.audit_helpers import spoil, write
from tests.operations.follower_helpers import Following, JitteryLog, JitteryReadStore, Log, serves, turns
from tests.sample_domains.counters import Counted, CounterId, Ended, Total, add_up, counters
from twofold.app import App
from twofold.domain.event_query import NO_EVENTS
from twofold.operations.audit import audit
from twofold.read_store.port import ReadStore, VersionedRow
from twofold.settings import Settings
from twofold.write_store.memory import MemoryWriteStore

KEYS = [f"c{n}" for n in range(12)]


def no_even_thirteen(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    """A fold that fails now and then."""
    if isinstance(event, Counted) and event.by == 3 and row is not None and row.total % 5 == 0:
        raise ValueError("not this one")
    return add_up(row, event, counter)


@pytest.mark.parametrize("loose", [False, True], ids=["transactional", "row by row"])
@pytest.mark.parametrize("seed", range(30))
async def test_an_audit_beside_events_and_followers_at_any_pace_calls_nothing_wrong_that_is_right(
    seed: int, loose: bool
) -> None:
    random = Random(seed)
    app = App(
        counters(no_even_thirteen if seed % 3 == 0 else add_up),
        settings=Settings(catch_up_page_events=random.choice([3, 7, 500])),
    )
    log, read_store = JitteryLog(random), JitteryReadStore(random, loose=loose)
    happening = Log(app, log, random, KEYS)
    following = await Following(app, log, read_store, random, 1, random.choice([1, 2, 5])).prepare()
    await serves(log, read_store, "totals", 1)
    await happening.happen(random.choice([0, 5, 40]))
    await following.catch_up(random.randint(0, (await log.read(NO_EVENTS)).head))

    async def load() -> None:
        for _ in range(100):
            await happening.happen(random.randint(1, 4))
            await turns(random, 40)
        await asyncio.Event().wait()

    began = (await log.read(NO_EVENTS)).head
    tasks = [asyncio.create_task(load()), asyncio.create_task(following.run())]
    looked_at = 0
    for n in range(6):
        keys = None if n % 2 else random.sample([*KEYS, "never"], 5)
        found = await audit(app, log, read_store, "totals", keys=keys, page=random.randint(2, 15))
        assert found.all_right, found
        looked_at += found.rows
    assert looked_at
    assert (await log.read(NO_EVENTS)).head > began
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("loose", [False, True], ids=["transactional", "row by row"])
@pytest.mark.parametrize("seed", range(15))
async def test_exactly_the_spoilt_rows_are_found_under_load(seed: int, loose: bool) -> None:
    random = Random(1_000 + seed)
    app = App(counters())
    log, read_store = JitteryLog(random), JitteryReadStore(random, loose=loose)
    following = await Following(app, log, read_store, random, 1, random.choice([1, 3])).prepare()
    await serves(log, read_store, "totals", 1)
    quiet = [f"q{n}" for n in range(8)]
    await write(app, log, *(Counted([key], n + 1) for n, key in enumerate(quiet)))
    await Log(app, log, random, KEYS).happen(20)
    await following.catch_up()
    spoil(read_store, 1, "q1", lambda kept: VersionedRow(Total("q1", 99), kept.position))
    spoil(read_store, 1, "q2", lambda kept: None)
    spoil(read_store, 1, "q3", lambda kept: VersionedRow(kept.row, kept.position - 1))
    read_store._tables["totals", 1].rows["q9"] = VersionedRow(Total("q9", 1), 2)

    async def load() -> None:
        for _ in range(100):
            await Log(app, log, random, KEYS).happen(2)
            await turns(random, 40)
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(load()), asyncio.create_task(following.run())]
    for n in range(4):
        keys = [*quiet, "q9"] if n % 2 else None
        found = await audit(app, log, read_store, "totals", keys=keys, page=random.randint(2, 15))
        assert (found.different, found.missing, found.extra) == (2, 1, 1)
        assert {each.key for each in found.sample} == {"q1", "q2", "q3", "q9"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.timeout(300)
async def test_an_audit_beside_a_running_follower_finds_on_every_store_just_what_is_wrong(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    random = Random(5)
    following = await Following(app, log, read_store, random, 1, 2).prepare()
    await serves(log, read_store, "totals", 1)
    quiet = [f"q{n}" for n in range(4)]
    await write(app, log, Counted(quiet, 1))
    await Log(app, log, random, KEYS).happen(30)
    await following.catch_up()
    head = (await log.read(NO_EVENTS)).head

    async def load() -> None:
        while True:
            await Log(app, log, random, KEYS).happen(1)
            await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(load()), asyncio.create_task(following.run())]
    audits = 0
    while (await log.read(NO_EVENTS)).head < head + 20 or audits < 2:
        found = await audit(app, log, read_store, "totals", page=(1_000, 5)[audits % 2])
        assert found.all_right, found
        assert found.rows >= len(quiet)
        audits += 1
        await asyncio.sleep(0.001)
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
