"""A row that cannot be read or stored parks its key alone, and can be repaired."""

from pathlib import Path
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
    add_up,
    all_totals,
    count,
    counters,
    total_of,
)
from tests.synchronization.parking_helpers import (
    HOT,
    Poison,
    caught_up,
    folded,
    module,
    nothing_parked,
    parked,
    rows,
    sent,
    spoil,
    status_of,
)
from twofold.domain.events import Event
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.operations.audit import audit
from twofold.query_service.view import View


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
