"""A poison event holds up its key, or its partition, and no more; retried or skipped, all follows in order, once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Total,
    TotalOf,
    Totals,
    add_up,
    all_totals,
    count,
    counters,
    total_of,
)
from tests.synchronization.cluster_helpers import Cluster, follows
from twofold.app import App
from twofold.domain.events import Event
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Unavailable
from twofold.health import FollowerStatus
from twofold.operations.audit import audit
from twofold.query_service.view import View
from twofold.read_store.port import Change
from twofold.synchronization.key_events import KeyEvents
from twofold.synchronization.projector import Projector

HOT = "hot"
KEYS = [HOT, *(f"c{n}" for n in range(8))]
Skipped = set[tuple[str, int]]


class Poison:
    """A fold that cannot take some amounts on the hot key, until they are repaired."""

    def __init__(self, amounts: set[int]) -> None:
        self.amounts = amounts

    def fold(self, row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if counter == HOT and isinstance(event, Counted) and event.by in self.amounts:
            raise ArithmeticError(f"{event.by} cannot be taken")
        return add_up(row, event, counter)


def module(poison: Poison, **given: Any) -> Module:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        return poison.fold(row, event, counter)

    return Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", fold, key=CounterId, **given)],
        queries=[total_of, all_totals],
    )


async def status_of(app: App) -> FollowerStatus:
    (only,) = (await app.status()).followers
    return only


async def caught_up(app: App) -> bool:
    return not (await status_of(app)).lag


async def sent(app: App, *amounts: int) -> None:
    """Events on the hot key, followed as far as they can be."""
    for by in amounts:
        await app.send(Count([HOT], by))
    await until(lambda: caught_up(app), "caught up")


async def parked(app: App) -> dict[str, tuple[int, int]]:
    """Position and number of waiting events, by key."""
    return {each.key: (each.position, each.waiting) for each in (await status_of(app)).parked}


async def rows(app: App) -> dict[str, Total]:
    return {row.counter: row for row in (await app.ask(Totals())).value}


async def folded(app: App, skipped: Skipped, upto: Mapping[str, int] | None = None) -> dict[str, Total]:
    """A plain fold of the log, made here: without what was skipped, of some keys only up to before a position."""
    made: dict[str, Total | None] = {}
    for recorded in (await app.log(limit=10_000)).events:
        event = app.events.decode(recorded)
        for counter in dict.fromkeys(event.counters):
            before = upto is None or counter not in upto or recorded.position < upto[counter]
            if before and (counter, recorded.position) not in skipped:
                made[counter] = add_up(made.get(counter), event, counter)
    return {counter: row for counter, row in made.items() if row is not None}


async def happen(app: App, random: Random, amounts: list[int]) -> None:
    """One event on the hot key for each amount, among and together with others."""
    for by in amounts:
        await app.send(Count([HOT, *random.sample(KEYS[1:], random.randint(0, 2))], by))
        for _ in range(random.randint(0, 2)):
            await app.send(Count(random.sample(KEYS[1:], random.randint(1, 3)), random.randint(0, 9)))


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


async def serves(app: App, generation: int) -> bool:
    return (await status_of(app)).generation == generation


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


async def test_a_skip_that_is_on_record_counts_although_the_process_ends_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({2})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 2, 3)
        running = app._running
        assert running is not None
        (worker,) = running.synchronization.workers

        async def ends(*_: Any) -> None:
            raise Unavailable("the process ends here")

        monkeypatch.setattr(worker.follower, "retry_pending", ends)
        act = await app.projections.skip("totals", HOT)
        assert (act.done, act.position) == (True, 2)
        assert await parked(app) == {HOT: (2, 1)}
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await until(lambda: nothing_parked(app), "taken up")
        assert await rows(app) == await folded(app, {(HOT, 2)})


async def test_a_retry_that_is_done_and_not_put_on_record_is_done_again_without_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({2})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 2, 3)
        poison.amounts = set()
        running = app._running
        assert running is not None
        write, lost = running.synchronization.cluster.write, iter([True])

        async def loses(*writes: Any) -> bool:
            if any(each.space == "acts" for each in writes) and next(lost, False):
                raise Unavailable("the record is lost on the way")
            return await write(*writes)

        monkeypatch.setattr(running.synchronization.cluster, "write", loses)
        act = await app.projections.retry("totals", HOT)
        assert "not parked" in act.outcome, "the second time it was free already"
        assert await rows(app) == await folded(app, set())


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
                    assert (await asked).done
                    await until(lambda: nothing_parked(first), "freed")
        await until(lambda: caught_up(first), "caught up")
        assert await rows(first) == await folded(first, set())
    assert each_row_moved_on(cluster.read_store.saves)


async def nothing_parked(app: App) -> bool:
    return not await parked(app)


def each_row_moved_on(saves: list[Change]) -> bool:
    """Whether no row was ever saved as of an earlier event than before."""
    last: dict[str, int] = {}
    for change in saves:
        for key, kept in change.rows.items():
            if kept.position <= last.get(key, 0):
                return False
            last[key] = kept.position
    return True


async def test_who_asks_in_vain_takes_its_request_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.node() as app:
        running = app._running
        assert running is not None
        monkeypatch.setattr(running.synchronization.requests, "start_new", lambda *_: None)
        with pytest.raises(Unavailable, match=r"No node that follows 'totals' answered within 0\.1 s"):
            await app.projections.skip("totals", HOT, timeout=0.1)
        assert (await running.synchronization.cluster.read()).requests == {}


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


async def test_a_skip_that_is_asked_for_twice_at_once_passes_over_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({2, 3})
    async with cluster.app([Projection("totals", poison.fold, key=CounterId)], fold_retries=0) as app:
        await sent(app, 1, 2, 3, 4)
        acts = await asyncio.gather(*(app.projections.skip("totals", HOT) for _ in range(2)))
        await until(lambda: moved_on(app), "parked at the next one, or not at all")
        done = {act.position for act in acts if act.done}
        left = {(HOT, position) for position in done}
        assert await rows(app) == await folded(app, left, {key: at for key, (at, _) in (await parked(app)).items()})


async def moved_on(app: App) -> bool:
    return (await parked(app)).get(HOT, (3, 0))[0] > 2


async def test_a_skip_is_done_although_the_read_store_was_away_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({13})
    async with cluster.app([Projection("totals", poison.fold, key=CounterId)], fold_retries=0) as app:
        await sent(app, 1, 13, 3)
        save, away = cluster.read_store.save, iter([True, True])

        async def fails(change: Change) -> None:
            if HOT in change.parked and next(away, False):
                raise Unavailable("away for a moment")
            await save(change)

        monkeypatch.setattr(cluster.read_store, "save", fails)
        assert (await app.projections.skip("totals", HOT)).done
        await until(lambda: free(app), "freed without anybody asking again")
        assert next(away, None) is None
        assert await rows(app) == await folded(app, {(HOT, 2)})


async def free(app: App) -> bool:
    return not await parked(app)


async def test_a_skip_reaches_what_is_being_built_and_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({13, 14})
    async with cluster.app([Projection("totals", poison.fold, key=CounterId)], fold_retries=0) as app:
        await sent(app, 1, 13, 3)
        await app.projections.rebuild(["totals"])
        await until(lambda: builds(app, 1), "parked in the build as well")
        await app.projections.skip("totals", HOT)
        await until(lambda: builds(app, 0), "freed in the build as well")
        assert await app.projections.switch("totals") == 2
        await app.send(Count([HOT], 14))
        await until(lambda: builds(app, 1), "parked in what is kept as well")
        await app.projections.skip("totals", HOT)
        await until(lambda: builds(app, 0), "freed there as well")
        assert await app.projections.switch_back("totals") == 1
        assert await rows(app) == await folded(app, {(HOT, 2), (HOT, 4)})


async def builds(app: App, parked: int) -> bool:
    return [build.parked_count for build in (await app.status()).builds] == [parked]


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


async def test_a_row_that_does_not_fit_its_type_parks_its_key_and_not_the_whole_projection(tmp_path: Path) -> None:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        made = add_up(row, event, counter)
        return Total(counter, None, 0) if made and made.total == 13 else made  # type: ignore[arg-type]

    for _ in range(2):
        async with app_in(tmp_path, counters(fold), fold_retries=0) as app:
            await app.send(Count([HOT], 13))
            await app.send(Count(["good"], 1))
            await until(lambda: caught_up(app), "caught up")
            assert list(await parked(app)) == [HOT]
            assert HOT not in await rows(app)
            (only,) = (await status_of(app)).parked
            assert "Expected `int`, got `null` - at `$.total`" in only.error


async def test_a_fold_sees_the_same_row_whether_it_is_remembered_or_read(tmp_path: Path) -> None:
    class Sum(msgspec.Struct, frozen=True):
        counter: str
        total: float = 0
        trail: str = ""

    def fold(row: Sum | None, event: Counted | Ended, counter: CounterId) -> Sum | None:
        row = row or Sum(counter)
        by = event.by if isinstance(event, Counted) else 0
        return Sum(counter, int(row.total + by), f"{row.trail} {row.total}")

    async def sum_of(query: TotalOf, sums: View[Sum]) -> Sum | None:
        return await sums.get(query.counter)

    found: list[Any] = []
    for remembered in (20_000, 1):
        (tmp_path / str(remembered)).mkdir()
        sums = Module(
            "sums",
            events=[Counted, Ended],
            decisions=[count],
            projections=[Projection("sums", fold, key=CounterId)],
            queries=[sum_of],
        )
        async with app_in(tmp_path / str(remembered), sums, cached_rows=remembered) as app:
            for n in range(6):
                receipt = await app.send(Count([HOT, f"c{n}"], n))
                found.append((await app.ask(TotalOf(HOT), position=receipt.token)).value)
    assert found[:6] == found[6:]
    assert found[5].trail == " 0 0.0 1.0 3.0 6.0 10.0"


async def test_a_parked_key_is_not_freed_without_its_events_where_an_upcaster_changed_its_tag(tmp_path: Path) -> None:
    def lower(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "counters": [each.lower() for each in fields["counters"]]}

    def renamed(poison: Poison, *, upcast: bool) -> Module:
        def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
            return poison.fold(row, event, counter)

        stored = Event(Counted, version=2, upcasters={1: lower}) if upcast else Event(Counted)
        return Module(
            "counters",
            events=[stored, Ended],
            decisions=[count],
            projections=[Projection("totals", fold, key=CounterId)],
            queries=[total_of, all_totals],
        )

    async with app_in(tmp_path, renamed(Poison(set()), upcast=False)) as app:
        for by in (1, 13, 3):
            await app.send(Count([HOT.upper()], by))
        await until(lambda: caught_up(app), "caught up")
    for each in tmp_path.glob("views*"):
        each.unlink()
    poison = Poison({13})
    async with app_in(tmp_path, renamed(poison, upcast=True), fold_retries=0) as app:
        await until(lambda: caught_up(app), "caught up")
        poison.amounts = set()
        act = await app.projections.retry("totals", HOT)
        assert "twofold reindex" in act.outcome
        assert await parked(app) == {HOT: (2, 0)}


@pytest.mark.parametrize(
    "damage", ['row = \'{"counter":"hot","total":"x"}\'', "row = 'no JSON'", "row = null", '"total:n" = 77']
)
async def test_a_row_that_nobody_can_read_or_whose_copies_disagree_is_repaired(damage: str, tmp_path: Path) -> None:
    wide = Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", add_up, key=CounterId, find_by=["total"])],
        queries=[total_of, all_totals],
    )
    async with app_in(tmp_path, wide) as app:
        await sent(app, 1, 2)
        read_store: Any = app._running.read_store  # type: ignore[union-attr]
        (table,) = read_store._tables.values()
        column = table.column_names["total"].strip('"')
        read_store._connection.execute(f"update {table.name} set {damage.replace('total:n', column)}")
        views_model = table.model
        act = await app.projections.repair("totals", HOT)
        assert act.outcome == "The row is repaired."
        assert await rows(app) == await folded(app, set())
        assert (await read_store.inspect(views_model, [HOT]))[HOT].corruption == ""
        await app.send(Count([HOT], 3))
        await until(lambda: caught_up(app), "caught up")
        assert await rows(app) == await folded(app, set())
        assert (await app.projections.repair("totals", HOT)).outcome == "The row was right already."


def spoil(app: App, key: str) -> None:
    """Let the row of a key be no JSON, behind everybody's back."""
    read_store: Any = app._running.read_store  # type: ignore[union-attr]
    (table,) = read_store._tables.values()
    assert read_store._connection.execute(
        f"update {table.name} set row = 'no JSON' where key = ? returning 1", (key,)
    ).get


async def test_an_event_that_meets_a_damaged_row_parks_its_key_alone_until_the_row_is_repaired(tmp_path: Path) -> None:
    async with app_in(tmp_path, fold_retries=0, cached_rows=1) as app:
        await app.send(Count([HOT], 1))
        await app.send(Count(["a"], 1))
        await until(lambda: caught_up(app), "caught up")
        spoil(app, HOT)
        await app.send(Count([HOT], 2))
        await app.send(Count(["b"], 3))
        await until(lambda: caught_up(app), "others go on")
        assert await parked(app) == {HOT: (3, 0)}
        (aside,) = (await status_of(app)).parked
        assert "is corrupt" in aside.error
        assert (await app.projections.repair("totals", HOT)).outcome == "The row is repaired."
        assert await parked(app) == {}
        assert await rows(app) == await folded(app, set())


@pytest.mark.parametrize("way", ["repair", "retry", "skip", "audit"])
async def test_a_damaged_row_of_a_parked_key_keeps_nobody_else_and_is_mended(tmp_path: Path, way: str) -> None:
    poison = Poison({13})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 13, 3)
        spoil(app, HOT)
    poison.amounts = set()
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await app.send(Count(["innocent"], 3))
        await until(lambda: caught_up(app), "others go on")
        running = app._running
        assert running is not None
        if way == "audit":
            found = await audit(app, running.write_store, running.read_store, "totals", repair=app.projections.repair)
            assert (found.different, found.repaired, found.failed) == (1, 1, 0)
        elif way == "repair":
            assert (await app.projections.repair("totals", HOT)).outcome == "The row is repaired."
        else:
            # Neither of them can tell what the row was.
            act = await getattr(app.projections, way)("totals", HOT)
            assert act.done
            assert (await app.projections.repair("totals", HOT)).done
        await until(lambda: nothing_parked(app), "freed")
        assert await rows(app) == await folded(app, {(HOT, 2)} if way == "skip" else set())


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

    monkeypatch.setattr(KeyEvents, "of", unreadable)
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await app.send(Count(["innocent"], 3))
        await until(lambda: caught_up(app), "others go on")
        assert await parked(app) == {HOT: (2, 1)}
        assert [problem.code for problem in (await app.status()).health.problems] == ["parked"]
