"""A cancelled caller affects no other caller, at whatever point, and leaves its whole command or nothing."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.command_service.boundary_probe import PutByThing, check_boundaries
from tests.command_service.service_helpers import Services, YieldingStore, opened
from twofold.domain.event_query import ALL_EVENTS


async def give_up_after(turns: int, task: "asyncio.Task[object]") -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_one_caller_may_be_cancelled_at_any_point(kind: str, tmp_path: Path) -> None:
    gave_up = 0
    for turns in range(40):
        folder = tmp_path / str(turns)
        folder.mkdir()
        async with opened(kind, folder) as write_store:
            slow = YieldingStore(write_store, Random(turns))
            async with Services(slow, cached=2) as services:  # type: ignore[arg-type]
                others = [
                    asyncio.create_task(services.handle(PutByThing(f"t{n % 3}", "b"), f"other-{n}")) for n in range(8)
                ]
                unlucky = asyncio.create_task(services.handle(PutByThing("t0", "b", 3), "unlucky"))
                await give_up_after(turns, unlucky)
                (outcome,) = await asyncio.gather(unlucky, return_exceptions=True)
                gave_up += isinstance(outcome, asyncio.CancelledError)
                written = await asyncio.wait_for(asyncio.gather(*others), 30)
                assert len({each.position for each in written}) == 8
                again = await asyncio.wait_for(services.handle(PutByThing("t0", "b", 3), "unlucky"), 30)
                ids = [event.id for event in (await write_store.read(ALL_EVENTS)).events]
                assert len(ids) == len(set(ids)) == 10
                assert ids[again.position - 2 : again.position] == ["unlucky.0", "unlucky.1"]
            await check_boundaries(write_store, services.codec)
    assert 5 < gave_up < 40, f"{gave_up} of 40 were cancelled: choose other turns"


async def test_cancelling_many_at_random_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    for seed in range(10):
        random = Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with opened("sqlite", folder) as write_store:
            slow = YieldingStore(write_store, random)
            async with Services(slow) as services:  # type: ignore[arg-type]
                sent = [asyncio.create_task(services.handle(PutByThing(f"t{n % 5}", "b"), f"c{n}")) for n in range(100)]
                await asyncio.gather(
                    *(give_up_after(random.randint(0, 60), task) for task in sent if random.random() < 0.5)
                )
                outcomes = await asyncio.wait_for(asyncio.gather(*sent, return_exceptions=True), 30)
                answered = {f"c{n}" for n, each in enumerate(outcomes) if not isinstance(each, BaseException)}
                assert all(
                    isinstance(each, asyncio.CancelledError) for each in outcomes if isinstance(each, BaseException)
                )
                again = await asyncio.gather(
                    *(services.handle(PutByThing(f"t{n % 5}", "b"), f"c{n}") for n in range(100))
                )
                assert all(each.repeated for n, each in enumerate(again) if f"c{n}" in answered)
            ids = [event.id for event in (await write_store.read(ALL_EVENTS)).events]
            assert sorted(ids) == sorted(f"c{n}.0" for n in range(100)), f"seed {seed}"
            await check_boundaries(write_store, services.codec)
