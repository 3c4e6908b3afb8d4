"""After a switch no answer is older than one before it, and no query waits longer than needed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from tests.sample_domains.counters import Counted, CounterId, Ended, Total, TotalOf, add_up, total_of
from twofold.codec import EventCodec
from twofold.domain.envelope import Metadata
from twofold.domain.module import Module, Wiring
from twofold.domain.projection import Projection
from twofold.errors import Unavailable, WiringError
from twofold.query_service.answer import ActorQuery, QueryResult, QueryService
from twofold.query_service.monotonic_reads import MonotonicReads
from twofold.read_store.memory import MemoryReadStore, _MemorySnapshot
from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import Change, Parked, ReadModel, VersionedRow
from twofold.signal import Signal
from twofold.world import RealWorld
from twofold.write_store.history import UNCHECKED, HistoryCheck
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append

LOW, HIGH = WHOLE.halves()
KEY = next(f"k{n}" for n in range(99) if LOW.holds(f"k{n}"))
OTHER = next(f"k{n}" for n in range(99) if HIGH.holds(f"k{n}"))


class Serving:
    """A log, two generations of one read model, and a query service that answers from one of them."""

    def __init__(self, *, partitions: int = 1, parks: Any = "key", query: Any = total_of) -> None:
        projection = Projection("totals", add_up, key=CounterId, partitions=partitions, parks=parks)
        self._partitions = partitions
        self.wiring = Wiring([Module("counters", events=[Counted, Ended], projections=[projection], queries=[query])])
        self.codec = EventCodec(self.wiring.events.values())
        self.log = MemoryWriteStore()
        self.read_store = MemoryReadStore()
        self.head = 0
        self.at: dict[tuple[int, Partition], int] = {}
        self.models = {"totals": self.model(1)}
        world, moved = RealWorld(), Signal()
        self.queries = QueryService(
            [query], self.models, self.wiring.projections, self.codec, world, moved, lambda name: None
        )
        self.queries.begin(self.log, HistoryCheck(self.log))

    def model(self, generation: int) -> ReadModel:
        return ReadModel("totals", generation, Total, partitions=self._partitions)

    async def begin(self) -> "Serving":
        await self.read_store.prepare([self.model(1), self.model(2)])
        return self

    async def happen(self, count: int = 1) -> None:
        for _ in range(count):
            self.head += 1
            named = f"c{self.head}"
            event = self.codec.encode(Counted([KEY], 1), named, 0)
            await self.log.append([Append(Metadata(self.head, named, named), (event,))])

    async def save(
        self, generation: int, upto: int, *, row: int | None = None, share: Partition = WHOLE, parked: Any = None
    ) -> None:
        """Bring a partition to a checkpoint, and the row of KEY to a total, which is the position it was folded to."""
        before = self.at.get((generation, share), 0)
        rows = {KEY: VersionedRow(Total(KEY, row), row)} if row else {}
        stamp = self.log.identity.stamp(UNCHECKED)
        change = Change(self.model(generation), stamp, before, upto, 0, rows, parked or {}, partition=share)
        await self.read_store.save(change)
        self.at[generation, share] = upto

    def switch(self, generation: int) -> None:
        self.models["totals"] = self.model(generation)

    async def ask(self, at_least: int = 0, timeout: float = 0.0) -> QueryResult:
        return await self.queries.answer(self.read_store, ActorQuery(TotalOf(KEY)), at_least, timeout)

    async def total(self) -> int:
        value = (await self.ask()).value
        return value.total if value else 0


async def test_a_row_that_was_ahead_of_its_checkpoint_is_not_taken_back_by_a_switch() -> None:
    app = await Serving().begin()
    await app.happen(2)
    await app.save(1, 1, row=2)
    await app.save(2, 1, row=1)
    before = await app.ask()
    assert (before.value.total, before.position) == (2, 1)
    app.switch(2)
    with pytest.raises(Unavailable, match=r"'totals' is 1 events behind.* is at 1, and the query needs 2") as held:
        await app.ask(before.position)
    assert held.value.lag == 1
    waiting = asyncio.create_task(app.ask(before.position, timeout=10.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await app.save(2, 2, row=2)
    assert (await waiting).value.total == 2


async def test_a_partition_that_was_ahead_of_the_lowest_is_not_taken_back_by_a_switch() -> None:
    app = await Serving(partitions=2).begin()
    await app.happen(3)
    await app.save(1, 3, row=3, share=LOW)
    await app.save(1, 1, share=HIGH)
    await app.save(2, 2, row=2, share=LOW)
    await app.save(2, 3, share=HIGH)
    before = await app.ask()
    assert (before.value.total, before.position) == (3, 1)
    app.switch(2)
    with pytest.raises(Unavailable, match=r"is at 2, and the query needs 3"):
        await app.ask(before.position)
    await app.save(2, 3, row=3, share=LOW)
    assert await app.total() == 3


async def test_a_partition_that_is_halted_is_not_waited_for_but_the_others_are() -> None:
    app = await Serving(partitions=2, parks="partition").begin()
    await app.happen(4)
    halted = {OTHER: Parked(OTHER, 2, "broken", 0)}
    for generation in (1, 2):
        await app.save(generation, 1, share=HIGH, parked=halted)
    await app.save(1, 4, row=4, share=LOW)
    await app.save(2, 3, row=3, share=LOW)
    assert (await app.ask()).position == 1
    app.switch(2)
    with pytest.raises(Unavailable, match=r"is at 3, and the query needs 4"):
        await app.ask(1)
    await app.save(2, 4, row=4, share=LOW)
    after = await app.ask(1)
    assert (after.value.total, after.position) == (4, 1)
    with pytest.raises(Unavailable, match=r"is at 1, and the query needs 2"):
        await app.ask(2)


async def test_a_key_that_is_set_aside_ahead_of_its_checkpoint_halts_nothing_where_only_keys_are_parked() -> None:
    app = await Serving().begin()
    await app.happen(2)
    await app.save(1, 2, row=2)
    await app.save(2, 1, row=1, parked={OTHER: Parked(OTHER, 2, "broken", 0)})
    assert await app.total() == 2
    app.switch(2)
    with pytest.raises(Unavailable, match=r"is at 1, and the query needs 2"):
        await app.ask()


async def test_the_first_generation_that_is_asked_is_not_held_back() -> None:
    app = await Serving().begin()
    await app.happen(9)
    await app.save(2, 3, row=3)
    app.switch(2)
    assert await app.total() == 3
    app.queries.begin(app.log, HistoryCheck(app.log))
    app.switch(1)
    assert await app.total() == 0


async def test_what_is_noted_at_a_switch_does_not_move_with_the_log() -> None:
    app = await Serving().begin()
    await app.happen(2)
    await app.save(1, 2, row=2)
    await app.save(2, 1, row=1)
    assert await app.total() == 2
    app.switch(2)
    with pytest.raises(Unavailable):
        await app.ask()
    await app.happen(100)
    await app.save(2, 2, row=2)
    assert (await app.ask()).position == 2


async def test_an_answer_that_was_under_way_at_a_switch_is_not_taken_back_either() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    gates[1].set()
    order = iter(gates)

    async def slow(query: TotalOf, totals: Any) -> Total | None:
        gate = next(order, gates[1])
        await gate.wait()
        found: Total | None = await totals.get(query.counter)
        return found

    slow.__annotations__ |= total_of.__annotations__
    app = await Serving(query=slow).begin()
    await app.happen(1)
    await app.save(1, 1, row=1)
    await app.save(2, 1, row=1)
    # It has asked how far the read model is, and not yet for the row.
    first = asyncio.create_task(app.ask())
    await asyncio.sleep(0.01)
    app.switch(2)
    assert await app.total() == 1
    await app.happen(1)
    gates[0].set()
    assert (await first).value.total == 1
    with pytest.raises(Unavailable, match=r"is at 1, and the query needs 2"):
        await app.ask()
    await app.save(2, 2, row=2)
    assert await app.total() == 2


class NeverStill(MemoryReadStore):
    """A store that holds no moment still: what is dropped is gone from snapshots that are open, too."""

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[_MemorySnapshot]:
        yield _MemorySnapshot(self._tables)


async def _asked_while(change: Any, app: Serving, begun: asyncio.Event, gate: asyncio.Event) -> QueryResult:
    app.read_store = NeverStill()
    await app.begin()
    await app.happen(1)
    await app.save(1, 1, row=1)
    await app.save(2, 1, row=1)
    asked = asyncio.create_task(app.ask())
    await begun.wait()
    change()
    await app.read_store.drop("totals", 1)
    gate.set()
    return await asked


def _gated(begun: asyncio.Event, gate: asyncio.Event) -> Any:
    async def slow(query: TotalOf, totals: Any) -> Total | None:
        begun.set()
        await gate.wait()
        found: Total | None = await totals.get(query.counter)
        return found

    slow.__annotations__ |= total_of.__annotations__
    return slow


async def test_a_query_whose_rows_are_dropped_behind_a_switch_is_asked_again_of_what_serves_now() -> None:
    gates = asyncio.Event(), asyncio.Event()
    app = Serving(query=_gated(*gates))
    answered = await _asked_while(lambda: app.switch(2), app, *gates)
    assert (answered.value.total, answered.position) == (1, 1)


async def test_what_fails_although_nothing_was_switched_is_not_asked_again() -> None:
    gates = asyncio.Event(), asyncio.Event()
    with pytest.raises(WiringError, match="generation 1 was never prepared"):
        await _asked_while(lambda: None, Serving(query=_gated(*gates)), *gates)


async def _back_and_forth(random: Random) -> int:
    """Whatever happens in whatever order; returns how often an answer was held back."""
    app = await Serving().begin()
    rows = {1: 0, 2: 0}
    seen = held = serving = 0
    for _ in range(300):
        generation = random.choice([1, 2])
        reached = app.at.get((generation, WHOLE), 0)
        match random.choice(["happen", "row", "checkpoint", "switch", "ask", "ask"]):
            case "happen":
                await app.happen()
            case "row":
                rows[generation] = random.randint(rows[generation], app.head)
                await app.save(generation, reached, row=rows[generation])
            case "checkpoint":
                await app.save(generation, random.randint(reached, rows[generation]))
            case "switch":
                serving = 3 - (serving or 1)
                app.switch(serving)
            case _:
                try:
                    total = await app.total()
                except Unavailable:
                    held += 1
                else:
                    assert total >= seen, f"{total} after {seen}"
                    seen = total
    return held


async def test_whatever_happens_in_whatever_order_nobody_goes_back() -> None:
    assert sum([await _back_and_forth(Random(seed)) for seed in range(40)]) > 100


async def test_a_service_that_holds_nothing_back_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        return None

    monkeypatch.setattr(MonotonicReads, "lagging", never)
    with pytest.raises(AssertionError, match="after"):
        for seed in range(40):
            await _back_and_forth(Random(seed))
