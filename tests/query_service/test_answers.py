"""An answer is never older than asked for, never poses as fresh where it is not, and says how new it is."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, settled, until
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
)
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import InvalidMessage, Unavailable, UndeclaredAccess, UnknownMessage, WiringError
from twofold.query_service.view import Page, View


async def hammer(app: App) -> None:
    """Callers who each ask after each of their commands; AssertionError where one sees an older state."""

    async def caller(number: int) -> None:
        for n in range(25):
            receipt = await app.send(Count([f"c{number}"], 1))
            answer = await app.ask(TotalOf(f"c{number}"), position=receipt.token)
            assert answer.position >= receipt.position, f"at {answer.position}, not yet at {receipt.position}"
            assert answer.value.total == n + 1, f"{answer.value} after {n + 1} commands"

    await asyncio.gather(*(caller(number) for number in range(12)))


async def test_whoever_brings_his_receipt_sees_at_least_what_it_stands_for(tmp_path: Path) -> None:
    async with app_in(tmp_path, page_events=3) as app:
        await hammer(app)


async def test_a_service_that_does_not_wait_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with app_in(tmp_path, page_events=3) as app:
        answer = app.queries.answer

        async def at_once(write_store: Any, query: object, at_least: int, timeout: float) -> Any:
            return await answer(write_store, query, 0, timeout)

        monkeypatch.setattr(app.queries, "answer", at_once)
        with pytest.raises(AssertionError, match="not yet at"):
            await hammer(app)


async def test_an_answer_that_does_not_come_in_time_is_unavailable_and_names_the_lag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        await app.send(Count(["a"], 1))
        await settled(app)
        running = app._running
        assert running is not None
        save = running.read_store.save

        async def away(change: Any) -> None:
            raise Unavailable("away")

        monkeypatch.setattr(running.read_store, "save", away)
        for _ in range(4):
            receipt = await app.send(Count(["a"], 1))
        with pytest.raises(Unavailable, match="4 events behind") as caught:
            await app.ask(TotalOf("a"), position=receipt.token, timeout=0.02)
        assert caught.value.lag == 4
        assert (await app.ask(TotalOf("a"))).value.total == 1
        waiting = asyncio.create_task(app.ask(TotalOf("a"), position=receipt.token, timeout=20))
        monkeypatch.setattr(running.read_store, "save", save)
        assert (await waiting).value.total == 5


async def test_positions_that_cannot_be_are_the_callers_mistake(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        await app.send(Count(["a"], 1))
        with pytest.raises(InvalidMessage, match="ends at position 1, before position 2"):
            await app.ask(Totals(), position=app.token(2))
        log, epoch, _, _ = app.token(1).rsplit(".", 3)
        foreign_tokens = (
            f"other-{log}.{epoch}.-.1",
            f"{log}.{int(epoch) + 1}.-.1",
            f"{log}.{epoch}.0123456789abcdef.1",
        )
        for foreign in foreign_tokens:
            with pytest.raises(InvalidMessage, match="does not hold this position"):
                await app.ask(Totals(), position=foreign)
        malformed = ("", "1", ".", "..", "a.b", f"{log}.{epoch}.", f"{log}.{epoch}.-1", f"{log}.{epoch}.1e3")
        for token in (
            *malformed,
            f"{log}.x.1",
            f".{epoch}.1",
            f"{log}.{epoch}.\u0661",
            f"{log}.{epoch}." + "9" * 5_000,
        ):
            with pytest.raises(InvalidMessage) as caught:
                await app.ask(Totals(), position=token)
            assert caught.value.field == "position", token


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13 and counter == "bad":
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


async def test_a_key_that_is_set_aside_does_not_pose_as_fresh(tmp_path: Path) -> None:
    async with app_in(tmp_path, counters(poisoned), fold_retries=0) as app:
        await app.send(Count(["bad", "good"], 1))
        receipt = await app.send(Count(["bad", "good"], 13))
        await settled(app)
        with pytest.raises(Unavailable, match="is parked"):
            await app.ask(TotalOf("bad"), position=receipt.token)
        assert (await app.ask(TotalOf("good"), position=receipt.token)).value.total == 14
        old = await app.ask(TotalOf("bad"))
        assert (old.value.total, old.parked) == (1, ["bad"])
        everything = await app.ask(Totals(), position=receipt.token)
        assert everything.parked == ["bad"], "a list that may hold the old row must say so"


async def test_of_many_parked_keys_each_is_refused_and_the_first_are_named(tmp_path: Path) -> None:
    keys = [f"c{n:02}" for n in range(30)]

    def failing(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ArithmeticError("thirteen")
        return add_up(row, event, counter)

    async with app_in(tmp_path, counters(failing), fold_retries=0, breaker_keys=0) as app:
        await app.send(Count([*keys, "good"], 1))
        for key in keys:
            receipt = await app.send(Count([key], 13))
        await settled(app)
        for key in keys:
            with pytest.raises(Unavailable, match=f"'{key}' of 'totals' is parked"):
                await app.ask(TotalOf(key), position=receipt.token)
        answer = await app.ask(TotalOf("good"), position=receipt.token)
        assert (answer.value.total, answer.parked, answer.parked_count) == (1, keys[:20], 30)
        assert (await app.ask(TotalOf(keys[-1]))).value.total == 1, "who asks for no position gets the row as it is"


class Largest(Totals, frozen=True):
    size: int = 3
    after: str | None = None


class ByTotal(Totals, frozen=True):
    total: int = 0


class ByTrail(Totals, frozen=True):
    pass


async def largest(query: Largest, totals: View[Total]) -> Page[Total]:
    return await totals.page(size=query.size, after=query.after, order_by="-total")


async def by_total(query: ByTotal, totals: View[Total]) -> list[Total]:
    return await totals.find(total=query.total)


async def by_trail(query: ByTrail, totals: View[Total]) -> list[Total]:
    return await totals.find(order_by="trail")


def with_queries(*queries: Callable[..., Any], folds: int = 1) -> Module:
    projections = [
        Projection(f"totals-{n}", add_up, key=CounterId, find_by=["total"], order_by=["total"]) for n in range(folds)
    ]
    return Module(
        "counters", events=[Counted, Ended], decisions=[count], projections=projections, queries=list(queries)
    )


async def test_pages_follow_one_another_without_gap_or_repeat(tmp_path: Path) -> None:
    async with app_in(tmp_path, with_queries(largest, all_totals)) as app:
        for n in range(10):
            await app.send(Count([f"c{n}"], n // 2 + 1))
        await settled(app)
        seen: list[Total] = []
        cursor: str | None = None
        while True:
            page = (await app.ask(Largest(after=cursor))).value
            assert len(page.items) <= 3
            seen += page.items
            cursor = page.next
            if cursor is None:
                break
        assert len({row.counter for row in seen}) == len(seen) == 10
        assert [row.total for row in seen] == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
        with pytest.raises(InvalidMessage):
            await app.ask(Largest(after="not a cursor of ours"))
        with pytest.raises(InvalidMessage):
            await app.ask(Largest(size=0))


async def test_a_question_nobody_declared_is_refused_with_the_cure(tmp_path: Path) -> None:
    async with app_in(tmp_path, with_queries(by_total, by_trail)) as app:
        assert (await app.ask(ByTotal(1))).value == []
        with pytest.raises(UndeclaredAccess, match=r"order_by=.*trail"):
            await app.ask(ByTrail())
        with pytest.raises(UnknownMessage, match="Totals"):
            await app.ask(Totals())


async def not_typed(query: Totals, totals):  # type: ignore[no-untyped-def]
    return []


async def no_answer_type(query: Totals, totals: View[Total]):  # type: ignore[no-untyped-def]
    return []


def not_async(query: Totals, totals: View[Total]) -> list[Total]:
    return []


async def no_view(query: Totals, totals: list[Total]) -> list[Total]:
    return []


async def no_such_row(query: Totals, rows: View[Counted]) -> list[Counted]:
    return []


async def again(query: Totals, totals: View[Total]) -> list[Total]:
    return []


@pytest.mark.parametrize(
    ("queries", "folds", "sentence"),
    [
        ([not_typed], 1, "not_typed: annotate every parameter"),
        ([no_answer_type], 1, "no_answer_type: annotate every parameter and the answer"),
        ([not_async], 1, "not_async answers a query and must be `async def`"),
        ([no_view], 1, r"no_view: parameter 'totals' must be a View\[Row\]"),
        ([no_such_row], 1, r"no_such_row: View\[Counted\] must mean one projection.*none"),
        ([all_totals], 2, r"View\[Total\] must mean one projection.*totals-0, totals-1"),
        ([all_totals, again], 1, "all_totals and again both answer Totals"),
    ],
)
def test_a_query_function_that_does_not_fit_is_refused_at_start(
    queries: list[Callable[..., Any]], folds: int, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(WiringError, match=sentence):
        app_in(tmp_path, with_queries(*queries, folds=folds))


async def test_live_gives_each_new_answer_once_and_ends_with_the_app(tmp_path: Path) -> None:
    for read_store in ("memory:", f"sqlite:///{tmp_path}/views.db"):
        app = App(counters(), write_store="memory:", read_store=read_store)
        await app.start()
        seen: list[int | None] = []

        async def look(app: App = app, seen: list[int | None] = seen) -> None:
            async for answer in app.live(TotalOf("a")):
                seen.append(answer.value.total if answer.value else None)

        looking = asyncio.create_task(look())
        await until(lambda seen=seen: seen == [None], "the first answer")
        for n in range(5):
            await app.send(Count(["b"], 1))
            await app.send(Count(["a"], 1))
            await until(lambda seen=seen, n=n: seen[-1] == n + 1, "the next answer")
        assert seen == [None, 1, 2, 3, 4, 5]
        await app.stop()
        await asyncio.wait_for(looking, 30)


async def test_one_answer_is_one_snapshot(tmp_path: Path) -> None:
    """Two counters that always move together are never seen apart, whatever is saved between two reads."""
    interrupt: list[Callable[[], Any]] = []

    async def both(query: TotalOf, totals: View[Total]) -> list[int]:
        first = await totals.get("x")
        for meanwhile in interrupt:
            await meanwhile()
        second = await totals.get("y")
        return [first.total if first else 0, second.total if second else 0]

    for read_store in ("memory:", f"sqlite:///{tmp_path}/views.db"):
        interrupt.clear()
        async with App(with_queries(both), write_store="memory:", read_store=read_store) as app:
            await app.send(Count(["x", "y"], 1))
            await until(lambda app=app: at_head(app), "caught up")

            async def meanwhile(app: App = app) -> None:
                await app.send(Count(["x", "y"], 1))
                await until(lambda: at_head(app), "caught up")

            interrupt.append(meanwhile)
            for _ in range(4):
                # At first the function is called twice: without a snapshot, until it asks for a second row.
                answer = await app.ask(TotalOf("x"))
                assert answer.value == [answer.position, answer.position]
            assert answer.position == 5


async def test_a_query_that_reads_one_row_takes_one_request_and_any_other_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    async def one(query: TotalOf, totals: View[Total]) -> Total | None:
        called.append("one")
        return await totals.get(query.counter)

    async def some(query: Totals, totals: View[Total]) -> list[Total]:
        called.append("some")
        try:
            rows = [await totals.get(key) for key in ("a", "b")]
        except Exception:  # noqa: BLE001 - what a careless function does
            rows = []
        return [row for row in rows if row is not None]

    async with app_in(tmp_path, with_queries(one, some)) as app:
        receipt = await app.send(Count(["a", "b"], 1))
        await app.ask(TotalOf("a"), position=receipt.token)
        called.clear()
        assert app._running is not None
        read_store, snapshots = app._running.read_store, 0
        snapshot = read_store.snapshot

        def counted() -> Any:
            nonlocal snapshots
            snapshots += 1
            return snapshot()

        monkeypatch.setattr(read_store, "snapshot", counted)
        for _ in range(3):
            answer = await app.ask(TotalOf("a"), position=receipt.token)
            assert (answer.value, answer.position) == (Total("a", 1, 1), 1)
        assert (called, snapshots) == (["one"] * 3, 0)
        called.clear()
        for _ in range(3):
            assert [row.counter for row in (await app.ask(Totals())).value] == ["a", "b"]
        assert (called, snapshots) == (["some"] * 4, 3), "only the first time it is called to no end"


async def at_head(app: App) -> bool:
    return all(follower.lag == 0 for follower in (await app.status()).followers)


async def test_an_answer_comes_at_the_latest_when_its_timeout_has_passed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        receipt = await app.send(Count(["a"], 1))
        await settled(app)
        assert app._running is not None
        never = asyncio.Event()

        async def hanging(*_: Any) -> Any:
            await never.wait()

        monkeypatch.setattr(app._running.read_store, "lookup", hanging)
        asked = asyncio.create_task(app.ask(TotalOf("a"), position=receipt.token, timeout=0.01))
        done, _ = await asyncio.wait([asked], timeout=60)
        assert done
        with pytest.raises(Unavailable, match="too slow or too busy"):
            await asked
