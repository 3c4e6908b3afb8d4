"""A poison event holds up its key or its partition only. After a retry or a skip all follows in order, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Total,
    add_up,
    all_totals,
    count,
    counters,
    total_of,
)
from tests.synchronization.cluster_helpers import Cluster, follows
from tests.synchronization.parking_helpers import (
    HOT,
    KEYS,
    Poison,
    Skipped,
    caught_up,
    folded,
    happen,
    module,
    nothing_parked,
    parked,
    rows,
    sent,
    serves,
    status_of,
)
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Unavailable
from twofold.read_store.port import Change
from twofold.synchronization.key_event_reader import KeyEventReader
from twofold.synchronization.projector import Projector


@pytest.mark.parametrize("seed", range(12))
async def test_wherever_poison_is_in_a_hot_key_others_go_on_and_after_skip_or_mend_all_is_applied_in_order_once(
    tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    amounts = [n + 100 for n in range(24)]
    poison = Poison(set(random.sample(amounts, random.randint(1, 5))))
    skipped: Skipped = set()
    settings = {"fold_retries": random.randint(0, 1), "page_events": random.choice((1, 3, 50))}
    async with app_in(tmp_path, module(poison, partitions=random.choice((1, 3))), **settings) as app:
        await happen(app, random, amounts[:16])
        await until(lambda: caught_up(app), "caught up")
        position_of = {
            event.by: recorded.position
            for recorded in (await app.log(limit=10_000)).events
            if isinstance(event := app.events.decode(recorded), Counted) and HOT in event.counters
        }
        while aside := await parked(app):
            # It stands at its first poison, all others are right, and what came behind it waits.
            assert aside.keys() == {HOT}
            at, waiting = aside[HOT]
            assert at == min(
                position_of[by] for by in poison.amounts if by in position_of and (HOT, position_of[by]) not in skipped
            )
            assert waiting == sum(position > at for position in position_of.values())
            assert await rows(app) == await folded(app, skipped, {HOT: at})
            if random.random() < 0.5:
                by = next(by for by, position in position_of.items() if position == at)
                poison.amounts -= {by}
                act = await app.projections.retry("totals", HOT)
            else:
                skipped.add((HOT, at))
                act = await app.projections.skip("totals", HOT)
            assert act.done
            await until(lambda at=at: parked_elsewhere(app, at), "it went on")
        assert await rows(app) == await folded(app, skipped)
        # What comes later is taken as if nothing had been; what it cannot take sets the key aside again.
        await happen(app, random, amounts[16:])
        await until(lambda: caught_up(app), "caught up")
        left = await parked(app)
        assert await rows(app) == await folded(app, skipped, {key: at for key, (at, _) in left.items()})
        acts = [act for act in (await app.projections.actions("totals")).values() if act.what == "skip"]
        assert {(act.key, act.position) for act in acts} == skipped
    # Another process, in which all is repaired: what was passed over stays so, and a rebuild passes over it, too.
    poison.amounts = set()
    async with app_in(tmp_path, module(poison)) as app:
        await until(lambda: nothing_parked(app), "taken up")
        assert await rows(app) == await folded(app, skipped)
        await app.projections.rebuild(["totals"])
        await until(lambda: switched(app), "built and switched")
        await until(lambda: serves(app, 2), "the new one serves")
        assert await rows(app) == await folded(app, skipped)


async def parked_elsewhere(app: App, position: int) -> bool:
    at, _ = (await parked(app)).get(HOT, (0, 0))
    return at != position


async def switched(app: App) -> bool:
    try:
        await app.projections.switch("totals")
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("seed", range(8))
async def test_a_halted_partition_waits_with_all_its_keys_and_goes_on_in_order_once_it_may(
    tmp_path: Path, seed: int
) -> None:
    random = Random(100 + seed)
    amounts = [n + 100 for n in range(16)]
    poison = Poison(set(random.sample(amounts, random.randint(1, 4))))
    skipped: Skipped = set()
    settings = {"fold_retries": 0, "page_events": random.choice((1, 3, 50))}
    async with app_in(tmp_path, module(poison, partitions=2, parks="partition"), **settings) as app:
        await happen(app, random, amounts)
        while True:
            await until(lambda: halted_or_done(app), "halted, or through")
            aside = await parked(app)
            if not aside:
                break
            ((key, (at, _)),) = aside.items()
            assert key == HOT
            status = await status_of(app)
            (still,) = [each for each in status.partitions if each.lag]
            assert still.position < at, "nothing of the partition passes it"
            # The keys of this partition are as they were before the poison event, those of the other one are right.
            right, old = await folded(app, skipped), await folded(app, skipped, dict.fromkeys(KEYS, at))
            for counter, row in (await rows(app)).items():
                assert row in (right.get(counter), old.get(counter)), counter
            if random.random() < 0.5:
                # Mended, it goes on by itself; a retry only spares it the pause.
                event = app.events.decode((await app.log(after=at - 1, limit=1)).events[0])
                poison.amounts -= {event.by}
                act = await app.projections.retry("totals", HOT)
                assert act.done or "is not parked" in act.outcome, "it may have gone on before it was asked to"
            else:
                skipped.add((HOT, at))
                assert (await app.projections.skip("totals", HOT)).done
            await until(lambda at=at: parked_elsewhere(app, at), "it went on")
        assert await rows(app) == await folded(app, skipped)


async def halted_or_done(app: App) -> bool:
    status = await status_of(app)
    others = [each for each in status.partitions if each.state != "stopped"]
    return all(not each.lag for each in others) and bool(len(others) == len(status.partitions) or status.parked)


@asynccontextmanager
async def writing(app: App) -> AsyncIterator[None]:
    """Events on the hot key, and others, as long as the context lasts."""
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await app.send(Count([HOT, KEYS[1 + n % 8]], 1000 + n))
            await asyncio.sleep(0)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        stop.set()
        await task


async def test_a_key_is_freed_while_events_come_and_partitions_move_between_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({13})

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        return poison.fold(row, event, counter)

    projection = Projection("totals", fold, key=CounterId, partitions=4)
    given = {"projections": [projection], "fold_retries": 0}
    async with cluster.node(**given) as first:
        await first.send(Count([HOT], 1))
        await first.send(Count([HOT], 13))
        async with writing(first):
            await until(lambda: parked(first), "parked")
            async with cluster.node(**given) as second:
                await until(lambda: len(follows(first)) == len(follows(second)) == 2, "shared out")
                # Asked of both nodes: the one that follows does it, whoever is asked.
                assert (await first.projections.retry("totals", HOT)).outcome.startswith("It is parked at position 2")
                assert (await second.projections.retry("totals", HOT)).outcome.startswith("It is parked at position 2")
                poison.amounts = set()
                asked = asyncio.create_task(second.projections.retry("totals", HOT))
                async with cluster.node(**given):
                    # A node that takes the partition over may free the key before it sees the request.
                    action = await asked
                    assert action.done or "not parked" in action.outcome
                    await until(lambda: nothing_parked(first), "freed")
        await until(lambda: caught_up(first), "caught up")
        assert await rows(first) == await folded(first, set())
    assert each_row_moved_on(cluster.read_store.saves)


def each_row_moved_on(saves: list[Change]) -> bool:
    """Whether no row was ever saved as of an earlier event than before."""
    last: dict[str, int] = {}
    for change in saves:
        for key, kept in change.rows.items():
            if kept.position <= last.get(key, 0):
                return False
            last[key] = kept.position
    return True


async def test_a_key_that_waits_already_goes_on_waiting_at_its_event_when_another_row_cannot_be_saved(
    tmp_path: Path,
) -> None:
    poison = Poison({13})

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        row = poison.fold(row, event, counter)
        # No store keeps a number of more than 64 bits in a column.
        too_large = row and counter == "other" and poison.amounts
        return Total(counter, 2**63, 0) if too_large else row

    wide = Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", fold, key=CounterId, find_by=["total"])],
        queries=[total_of, all_totals],
    )
    async with app_in(tmp_path, wide, fold_retries=0) as app:
        for by in (1, 13, 3):
            await app.send(Count([HOT], by))
        await app.send(Count([HOT, "other"], 99))
        await until(lambda: caught_up(app), "caught up")
        assert {key: at for key, (at, _) in (await parked(app)).items()} == {HOT: 2, "other": 4}
        poison.amounts = set()
        for key in (HOT, "other"):
            await app.projections.retry("totals", key)
        assert await rows(app) == await folded(app, set())


@pytest.mark.usefixtures("unlogged")
async def test_whatever_an_error_says_its_key_is_parked(tmp_path: Path) -> None:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ValueError("half of a character: \ud83d, and none: \x00")
        return add_up(row, event, counter)

    async with app_in(tmp_path, counters(fold), fold_retries=0) as app:
        await app.send(Count([HOT, "other"], 13))
        await app.send(Count(["good"], 1))
        await until(lambda: caught_up(app), "caught up")
        assert sorted(await parked(app)) == [HOT, "other"]


async def test_a_start_does_not_wait_for_what_is_parked(tmp_path: Path) -> None:
    """However much that is: it is taken up beside what comes."""
    poison = Poison({13})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 13, 3)
    poison.amounts = set()
    tended = asyncio.Event()

    async def retry_pending(self: Projector, at: int) -> float | None:
        await tended.wait()
        return await real(self, at)

    real = Projector.retry_pending
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Projector, "retry_pending", retry_pending)
        async with app_in(tmp_path, module(poison), fold_retries=0) as app:
            assert await parked(app) == {HOT: (2, 1)}
            tended.set()
            await until(lambda: nothing_parked(app), "taken up")


async def test_a_parked_key_whose_events_cannot_even_be_read_keeps_nobody_else_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({13})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 13, 3)

    async def unreadable(*_: object) -> None:
        raise LookupError("no upcaster")

    monkeypatch.setattr(KeyEventReader, "of", unreadable)
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await app.send(Count(["innocent"], 3))
        await until(lambda: caught_up(app), "others go on")
        assert await parked(app) == {HOT: (2, 1)}
        assert [problem.code for problem in (await app.status()).health.problems] == ["parked"]
