"""Folds that are not cached are read together while other reads are under way."""

import asyncio
from collections.abc import Mapping
from random import Random

import pytest

from tests.command_service.service_helpers import Services
from tests.command_service.test_in_turn import FailingStore
from tests.command_service.turn_probe import TURNS, Take, check_turns
from twofold.command_service.fold_reads import FoldedState, IsLong, SharedReads
from twofold.domain.decision import Fold
from twofold.write_store.memory import MemoryWriteStore


async def test_forty_commands_on_forty_cold_boundaries_share_their_reads() -> None:
    store = FailingStore(MemoryWriteStore(), Random(1))
    store.share = 0.0

    async def newer(*args: object) -> object:
        await asyncio.sleep(0)
        return await FailingStore.newer(store, *args)

    store.newer = newer  # type: ignore[method-assign]
    async with Services(store, TURNS) as services:  # type: ignore[arg-type]
        await asyncio.gather(*(services.handle(Take([f"t{n}"], "b"), f"c{n}") for n in range(40)))
        assert store.reads <= 6
        assert len(await check_turns(services.write_store, services.codec)) == 40


async def test_each_caller_gets_the_error_of_its_own_folds_and_no_other() -> None:
    bad = Fold(None, ("thing:bad",))  # type: ignore[arg-type]
    read: list[set[str]] = []

    async def bring_up_to_date(states: Mapping[Fold, FoldedState], is_long: IsLong) -> None:
        read.append({fold.tags[0] for fold in states})
        await asyncio.sleep(0)
        if bad in states:
            raise LookupError("thing:bad")

    reads = SharedReads(bring_up_to_date)

    async def load(fold: Fold) -> None:
        await reads.read({fold: FoldedState(None, 0)})

    folds = [bad if n == 3 else Fold(None, (f"thing:{n}",)) for n in range(6)]  # type: ignore[arg-type]
    tasks = [asyncio.create_task(load(fold)) for fold in folds]
    await asyncio.sleep(0)
    tasks[4].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [
        LookupError,
        asyncio.CancelledError,
        type(None),
    ]
    assert read[2] == {"thing:2", "thing:bad", "thing:4", "thing:5"}
    with pytest.raises(LookupError):
        await load(bad)
    await load(folds[0])
