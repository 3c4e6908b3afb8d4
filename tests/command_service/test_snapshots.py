"""A state that begins with a snapshot is the state that a fold of all events gives."""

import asyncio
import logging
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_service.service_helpers import Services
from tests.command_service.snapshot_probe import (
    ALL_MODELS,
    Enter,
    Ledger,
    ReadCounts,
    entered,
    ledgers,
    replayed,
    states,
)
from twofold.command_service.fold_reads import FoldedState
from twofold.errors import Unavailable
from twofold.write_store.history import digest_at
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome

IDS = ("a", "b", "c")
Steps = list[tuple[list[str], int]]


async def live(store: ReadCounts, parts: list[Steps], every: int) -> int:
    """Two nodes in turn, started again for each part of a history; how many snapshots were used."""
    used = n = 0
    for part in parts:
        async with (
            Services(store, ALL_MODELS, snapshot_events=every, cached=2) as first,
            Services(store, ALL_MODELS, snapshot_events=every + 1) as second,
        ):
            for chosen, amount in part:
                n += 1
                await (first if n % 3 else second).handle(Enter(chosen, amount), f"{n}")
        assert first.snapshots.counts.failed == second.snapshots.counts.failed == 0
        async with Services(store, ALL_MODELS, snapshot_events=every) as third:
            assert await states(third, *IDS) == await replayed(store, ALL_MODELS, *IDS)
        used += sum(services.snapshots.counts.used for services in (first, second, third))
    return used


step = st.tuples(st.lists(st.sampled_from(IDS), min_size=1, max_size=2, unique=True), st.integers(0, 4))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(step, max_size=25), min_size=1, max_size=4), st.integers(1, 12))
def test_a_state_with_snapshots_is_the_state_of_a_full_replay(parts: list[Steps], every: int) -> None:
    asyncio.run(live(ReadCounts(), parts, every))


async def test_snapshots_are_used_in_such_histories() -> None:
    parts = [[([IDS[n % 3]], n % 4) for n in range(60)] for _ in range(3)]
    assert await live(ReadCounts(), parts, 5) > 10


async def test_a_boundary_that_grew_in_one_process_is_not_read_again_by_the_next() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 95)
    store.events_read = 0
    async with Services(store, ledgers(), snapshot_events=10) as services:
        assert await states(services, "a") == [expected(95)]
        assert services.snapshots.counts.used == 1
    assert store.events_read <= 10 + 10


async def test_a_boundary_without_a_snapshot_gets_one_when_it_was_read() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=0) as services:
        await entered(services, "a", 95)
    assert not store.snapshots
    for used in (0, 1):
        async with Services(store, ledgers(), snapshot_events=10) as services:
            assert await states(services, "a") == await replayed(store, ledgers(), "a")
            assert services.snapshots.counts.used == used
    assert len(store.snapshots) == 1


async def test_a_snapshot_that_has_seen_less_than_a_state_is_not_used() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 35)
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await states(services, "a")
        (fold,) = services.folds._cached
        newer = await services.snapshots.newer_than({fold: FoldedState(None, 29)})
        assert newer[fold].upto == 30
        assert await services.snapshots.newer_than({fold: FoldedState(None, 30)}) == {}


async def test_nobody_looks_for_the_snapshot_of_a_short_boundary() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 9)
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await states(services, "a")
    assert "snapshots" not in store.rows_read


@pytest.mark.parametrize("place", [0, 20, -1, None])
async def test_a_damaged_snapshot_is_ignored_logged_and_replaced(
    place: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 40)
    right = dict(store.snapshots)

    def change(value: bytes) -> bytes:
        if place is None:
            return b""
        changed = bytearray(value)
        changed[place] ^= 1
        return bytes(changed)

    store.damage(change)
    async with Services(store, ledgers(), snapshot_events=10) as services:
        assert await states(services, "a") == await replayed(store, ledgers(), "a")
        assert (services.snapshots.counts.ignored, services.snapshots.counts.used) == (1, 0)
    assert "DecisionModel(Ledger) for ledger:a is damaged" in caplog.text
    assert {key: row.value for key, row in store.snapshots.items()} == {key: row.value for key, row in right.items()}


async def test_a_snapshot_under_the_key_of_another_boundary_is_damaged() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 10)
        await entered(services, "b", 10, start=3)
    (a, row_a), (b, row_b) = store.snapshots.items()
    store._rows["snapshots"] = {a: row_b, b: row_a}
    async with Services(store, ledgers(), snapshot_events=5) as services:
        assert await states(services, "a", "b") == await replayed(store, ledgers(), "a", "b")
        assert (services.snapshots.counts.ignored, services.snapshots.counts.used) == (2, 0)


async def test_a_snapshot_of_a_history_that_the_log_has_lost_is_ignored_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost, store = ReadCounts(), ReadCounts()
    async with Services(lost, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 40)
    async with Services(store, ledgers(), snapshot_events=0) as services:
        await entered(services, "b", 1)
        await entered(services, "a", 50)
    store._rows["snapshots"] = dict(lost.snapshots)
    async with Services(store, ledgers(), snapshot_events=10) as services:
        assert await states(services, "a") == await replayed(store, ledgers(), "a")
        assert services.snapshots.counts.used == 0
    assert "does not fit the log" in caplog.text
    assert store.snapshots != lost.snapshots
    async with Services(store, ledgers(), snapshot_events=10) as services:
        assert await states(services, "a") == await replayed(store, ledgers(), "a")
        assert services.snapshots.counts.used == 1


async def test_a_snapshot_beyond_the_end_of_the_log_is_ignored() -> None:
    lost, store = ReadCounts(), ReadCounts()
    async with Services(lost, ledgers(), snapshot_events=10) as services:
        await entered(services, "a", 40)
    async with Services(store, ledgers(), snapshot_events=0) as services:
        await entered(services, "a", 25)
    store._rows["snapshots"] = dict(lost.snapshots)
    async with Services(store, ledgers(), snapshot_events=10) as services:
        assert await states(services, "a") == await replayed(store, ledgers(), "a")


async def test_a_node_that_is_behind_does_not_replace_a_newer_snapshot() -> None:
    store = ReadCounts()
    async with (
        Services(store, ledgers(), snapshot_events=10) as ahead,
        Services(store, ledgers(), snapshot_events=10) as behind,
    ):
        await entered(behind, "a", 9)
        (state,) = await states(behind, "a")
        await entered(ahead, "a", 40, start=10)
        await ahead.snapshots.stop()
        newest = dict(store.snapshots)
        (fold,) = behind.folds._cached
        assert behind.snapshots.offer(fold, state, 9, await digest_at(store, 9), 10)
    assert dict(store.snapshots) == newest


async def test_two_nodes_store_the_same_snapshot_and_the_second_is_refused_or_needless() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(), snapshot_events=0) as services:
        await entered(services, "a", 30)
    async with (
        Services(store, ledgers(), snapshot_events=10) as first,
        Services(store, ledgers(), snapshot_events=10) as second,
    ):
        both = await asyncio.gather(states(first, "a"), states(second, "a"))
        assert both[0] == both[1] == await replayed(store, ledgers(), "a")
    assert [row.version for row in store.snapshots.values()] == [1]
    assert first.snapshots.counts.stored + second.snapshots.counts.stored == 1
    assert first.snapshots.counts.failed == second.snapshots.counts.failed == 0


class NoSnapshots(ReadCounts):
    """A store that refuses snapshots, and cannot read them."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        if any(row.space == "snapshots" for append in batch for row in append.rows):
            assert len(batch) == 1, "no command may fail with a snapshot"
            raise Unavailable("no room for snapshots")
        return await super().append(batch)

    async def rows(self, space: str, keys: Sequence[str] | None = None, limit: int | None = None) -> object:
        if space == "snapshots" and self._events and len(self._events) > 60:
            raise Unavailable("this page is damaged")
        return await super().rows(space, keys, limit)


async def test_a_command_does_not_notice_that_snapshots_fail(caplog: pytest.LogCaptureFixture) -> None:
    store = NoSnapshots()
    with caplog.at_level(logging.WARNING):
        async with Services(store, ledgers(), snapshot_events=10) as services:
            await entered(services, "a", 45)
        assert services.snapshots.counts.failed > 1
        assert services.snapshots.counts.stored == 0
        async with Services(store, ledgers(), snapshot_events=10) as services:
            await entered(services, "a", 30, start=46)
    assert "no room for snapshots" in caplog.text
    assert await replayed(store, ledgers(), "a") == [expected(75)]


def expected(count: int) -> Ledger:
    """The state after so many entries, folded here."""
    state = Ledger("a")
    for n in range(1, count + 1):
        amount = str(n % 9 + 1)
        by_amount = {**state.by_amount, amount: state.by_amount.get(amount, 0) + 1}
        state = Ledger("a", (state.chain * 31 + n % 9 + 1) % 1_000_003, by_amount, (*state.last, 1)[-3:])
    return state


async def test_the_order_of_a_dict_survives() -> None:
    store = MemoryWriteStore()
    async with Services(store, ledgers(), snapshot_events=3) as services:
        for n, amount in enumerate((30, 4, 200, 1)):
            await services.handle(Enter(["a"], amount), f"{n}")
    async with Services(store, ledgers(), snapshot_events=3) as services:
        (state,) = await states(services, "a")
        assert services.snapshots.counts.used == 1
        assert list(state.by_amount) == ["30", "4", "200", "1"]
