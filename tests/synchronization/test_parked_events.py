"""An event that cannot be read, or has no usable key, holds up what it may concern, and nothing else."""

from pathlib import Path
from typing import Any

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
    total_of,
)
from tests.synchronization.parking_helpers import caught_up, folded, nothing_parked, parked, rows, status_of
from twofold.app import App
from twofold.domain.events import Event
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Unavailable
from twofold.operations.audit import audit

pytestmark = pytest.mark.usefixtures("unlogged")


class Trouble:
    """What fails for some amounts, until they are removed."""

    def __init__(self, *amounts: int, error: BaseException | None = None) -> None:
        self.amounts = set(amounts)
        self.error = error or ArithmeticError("cannot be taken")

    def upcast(self, fields: dict[str, Any]) -> dict[str, Any]:
        if fields.get("by") in self.amounts:
            raise self.error
        return fields

    def keys(self, event: Counted | Ended) -> list[str]:
        if isinstance(event, Counted) and event.by in self.amounts:
            raise self.error
        return event.counters


def module(trouble: Trouble, *, key: object = None, version: int = 1, **given: Any) -> Module:
    """The counters. The key is a function that fails unless it is given. Of version 2, an upcaster fails."""
    upcasters = {1: trouble.upcast} if version == 2 else None
    return Module(
        "counters",
        events=[Event(Counted, version=version, upcasters=upcasters), Ended],
        decisions=[count],
        projections=[Projection("totals", add_up, key=key or trouble.keys, **given)],
        queries=[total_of, all_totals],
    )


async def sent(app: App, *amounts: int, key: str = "a") -> int:
    """Counts on one key; the position of the last one."""
    for by in amounts:
        receipt = await app.send(Count([key], by))
    await until(lambda: caught_up(app), "caught up")
    return receipt.position


async def total(app: App, key: str, position: int = 0) -> int | None:
    row = (await app.ask(TotalOf(key), position=app.token(position) if position else None)).value
    return None if row is None else row.total


async def only(app: App) -> dict[str, int]:
    """What is parked, with its position."""
    return {key: at for key, (at, _) in (await parked(app)).items()}


@pytest.mark.parametrize("error", [ValueError("seven"), Unavailable("a service"), SystemExit(3), KeyboardInterrupt()])
async def test_an_event_that_an_upcaster_fails_on_parks_its_key_and_no_other(
    tmp_path: Path, error: BaseException
) -> None:
    old = Module("counters", events=[Counted, Ended], decisions=[count])
    async with app_in(tmp_path, old) as app:
        for key, by in (("a", 1), ("bad", 7), ("b", 2)):
            await app.send(Count([key], by))
    trouble = Trouble(7, error=error)
    new = module(trouble, key=CounterId, version=2)
    async with app_in(tmp_path, new, fold_retries=1) as app:
        last = await sent(app, 5, key="c")
        await app.send(Count(["bad"], 8))
        await until(lambda: caught_up(app), "caught up")
        assert [await total(app, key, last) for key in "abc"] == [1, 2, 5]
        assert await parked(app) == {"bad": (2, 1)}
        (one,) = (await status_of(app)).parked
        assert one.error.startswith("UnreadableEvent: The 'counted' event (version 1) at position 2 cannot be read: ")
        with pytest.raises(Unavailable, match="The row 'bad' of 'totals' is parked"):
            await total(app, "bad", last)
        assert (await app.status()).health.level == "degraded"
        assert (await app.projections.retry("totals", "bad")).outcome.startswith("It is parked at position 2")
        assert (await app.projections.skip("totals", "bad")).done
        await until(lambda: nothing_parked(app), "skipped")
        assert await total(app, "bad", last) == 8
    async with app_in(tmp_path, new) as app:
        # Another process skips it as well, without reading it.
        assert await total(app, "bad", last) == 8
        assert not await parked(app)


async def test_stored_bytes_that_do_not_fit_their_type_park_their_key_until_the_code_reads_them(tmp_path: Path) -> None:
    class Narrow(Counted, frozen=True):
        by: bool  # type: ignore[assignment]

    async with app_in(tmp_path, module(Trouble(), key=CounterId)) as app:
        await sent(app, 3)

    def fold(row: Total | None, event: Narrow | Ended, counter: CounterId) -> Total | None:
        return row

    narrow = Projection("totals", fold, key=CounterId, version=2)
    other = Module("counters", events=[Event(Narrow, name="counted"), Ended], projections=[narrow], queries=[total_of])
    async with app_in(tmp_path, other, fold_retries=0) as app:
        await until(lambda: parked(app), "parked")
        assert await only(app) == {"a": 1}
    mended = Projection("totals", add_up, key=CounterId, version=2)
    again = Module("counters", events=[Counted, Ended], projections=[mended], queries=[total_of])
    async with app_in(tmp_path, again) as app:
        await until(lambda: nothing_parked(app), "mended")
        assert await total(app, "a", 1) == 3


@pytest.mark.parametrize("error", [ValueError("no key"), Unavailable("a service"), SystemExit(3)])
async def test_an_event_without_a_usable_key_is_parked_by_position_and_all_keys_go_on(
    tmp_path: Path, error: BaseException
) -> None:
    trouble = Trouble(13, error=error)
    async with app_in(tmp_path, module(trouble), fold_retries=1) as app:
        assert await sent(app, 1, 13, 4) == 3
        last = await sent(app, 5, key="b")
        assert await only(app) == {"parked:2": 2}
        status = await app.status()
        assert (status.health.level, status.followers[0].state) == ("degraded", "up-to-date")
        (problem,) = status.health.problems
        assert "has 1 parked event." in problem.message
        # Who asks for no position, or an earlier one, is answered, and told.
        answer = await app.ask(TotalOf("a"))
        assert (answer.value, answer.parked, answer.parked_count) == (Total("a", 5, 35), ["parked:2"], 1)
        assert await total(app, "a", 1) == 5
        # The event may belong to any row.
        for key in ("a", "b", "never"):
            with pytest.raises(Unavailable, match="The event at 2 is parked, and nobody can tell which row"):
                await total(app, key, last)
        assert (await app.projections.retry("totals", "parked:2")).outcome.startswith("It is parked at position 2")
        assert "Retry or skip it first" in (await app.projections.repair("totals", "parked:2")).outcome
        trouble.amounts = set()
        assert (await app.projections.retry("totals", "parked:2")).outcome == "It is up to date."
        assert not await parked(app)
        assert await rows(app) == await folded(app, set())
        assert await total(app, "a", last) == 18


@pytest.mark.parametrize("key", ["x" * 1_100, "", "\ud800", ["a", "x" * 1_100], [["a"]]])
async def test_a_key_that_no_read_store_takes_parks_the_event(tmp_path: Path, key: Any) -> None:
    def keys(event: Counted | Ended) -> Any:
        return key if isinstance(event, Counted) and event.by == 13 else event.counters

    async with app_in(tmp_path, module(Trouble(), key=keys), fold_retries=0) as app:
        await sent(app, 1, 13, 4)
        assert await only(app) == {"parked:2": 2}
        assert (await app.projections.skip("totals", "parked:2")).outcome == "The event at 2 is skipped."
        await until(lambda: nothing_parked(app), "skipped")
        assert await total(app, "a", 3) == 5


async def test_a_skip_by_position_holds_for_rebuilds_audits_and_the_next_start(tmp_path: Path) -> None:
    trouble = Trouble(13)
    async with app_in(tmp_path, module(trouble), fold_retries=0) as app:
        await sent(app, 1, 13, 4)
        assert (await app.projections.skip("totals", "parked:2")).done
        await until(lambda: nothing_parked(app), "skipped")
    trouble.amounts = set()
    async with app_in(tmp_path, module(trouble)) as app:
        assert await total(app, "a", 3) == 5
        running = app._running
        assert running is not None
        result = await audit(app, running.write_store, running.read_store, "totals")
        assert (result.right, result.wrong) == (1, 0)
        await app.projections.rebuild(["totals"])
        await until(lambda: built(app), "built")
        assert await app.projections.switch("totals") == 2
        assert await total(app, "a", 3) == 5


async def built(app: App) -> bool:
    return [each.lag for each in (await app.status()).builds] == [0]


async def test_an_audit_takes_a_row_without_a_parked_event_for_right(tmp_path: Path) -> None:
    async with app_in(tmp_path, module(Trouble(13)), fold_retries=0) as app:
        await sent(app, 1, 13, 4)
        running = app._running
        assert running is not None
        for keys in (None, ["a"]):
            result = await audit(app, running.write_store, running.read_store, "totals", keys=keys)
            assert (result.right, result.wrong) == (1, 0)


async def test_a_blocked_partition_waits_for_the_event_and_goes_on_after_a_skip(tmp_path: Path) -> None:
    async with app_in(tmp_path, module(Trouble(13), parks="partition"), fold_retries=0) as app:
        for by in (1, 13, 4):
            await app.send(Count(["a"], by))
        await until(lambda: blocked(app), "blocked")
        status = await status_of(app)
        assert (status.position, status.partitions[0].blocking) == (1, 1)
        assert (await app.status()).health.level == "degraded"
        assert (await app.projections.skip("totals", "parked:2")).done
        await until(lambda: caught_up(app), "went on")
        assert await total(app, "a", 3) == 5


async def blocked(app: App) -> bool:
    return (await status_of(app)).state == "stopped" and bool(await parked(app))


async def test_if_many_events_in_a_row_have_no_key_the_projection_stops_before_one_of_them(tmp_path: Path) -> None:
    trouble = Trouble(*range(100, 200))
    async with app_in(tmp_path, module(trouble), fold_retries=0, breaker_keys=5) as app:
        for by in range(100, 110):
            await app.send(Count(["a"], by))
        await until(lambda: blocked(app), "stopped")
        assert [f"parked:{n}" for n in range(1, 7)] == list(await only(app))
        trouble.amounts = set()
        await until(lambda: caught_up(app), "went on")


async def test_what_newer_code_wrote_is_never_parked(tmp_path: Path) -> None:
    newer = Module("counters", events=[Event(Counted, version=2, upcasters={1: dict}), Ended], decisions=[count])
    async with app_in(tmp_path, newer) as app:
        last = (await app.send(Count(["a"], 1))).position
    async with app_in(tmp_path, module(Trouble(), key=CounterId), fold_retries=0) as app:
        await until(lambda: halted(app), "halted")
        status = await status_of(app)
        assert status.error is not None
        assert "Start it with newer code" in status.error
        with pytest.raises(Unavailable):
            await app.ask(TotalOf("a"), position=app.token(last), timeout=0.2)
        assert await parked(app) == {}


async def halted(app: App) -> bool:
    return (await status_of(app)).state == "retrying"
