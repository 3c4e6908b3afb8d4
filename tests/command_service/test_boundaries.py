"""Every decision is made on exactly the events before it in its boundary, also while others write."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.command_service.boundary_probe import (
    Mark,
    PutByAll,
    PutByBoth,
    PutByThing,
    PutByType,
    boundary_of,
    check_boundaries,
)
from tests.command_service.service_helpers import Services, YieldingStore, opened
from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.errors import Conflict, Rejected
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, WriteStore
from twofold.write_store.reserving import DecideReserved

COMMANDS = (PutByThing, PutByBoth, PutByType, PutByAll)


class NoConditions(MemoryWriteStore):
    """Broken: appends whatever was decided, however old what it was decided on."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        return await super().append([msgspec.structs.replace(each, conditions=()) for each in batch])


async def live_through(write_store: WriteStore, seed: int, *, callers: int = 12, commands: int = 25) -> int:
    """Many callers of two services over one store, with random commands; AssertionError where a rule is broken."""
    random = Random(seed)
    first, second = (
        Services(YieldingStore(write_store, random), cached=random.choice((0, 1, 2, 1_000)), retries=10_000)  # type: ignore[arg-type]
        for _ in range(2)
    )
    async with first, second:

        async def caller(number: int) -> None:
            for n in range(commands):
                thing, box = f"t{random.randint(1, 3)}", f"b{random.randint(1, 2)}"
                service = random.choice((first, second))
                if random.random() < 0.15:
                    await service.handle(Mark(thing, box), f"{number}-{n}")
                    continue
                command = random.choice(COMMANDS)(thing, box, random.choice((0, 0, 1, 2, 3)))
                before = (await write_store.read(ALL_EVENTS, limit=1)).head
                try:
                    await service.handle(command, f"{number}-{n}")
                except Rejected as rejected:
                    await check_rejection(write_store, command, rejected, before)

        await asyncio.gather(*(caller(number) for number in range(callers)))
    return await check_boundaries(write_store, first.codec)


async def check_rejection(write_store: WriteStore, command: object, rejected: Rejected, before: int) -> None:
    """A rejection must rest on one moment of the log: its head `before` the command was sent, or a later one."""
    events = (await write_store.read(ALL_EVENTS)).events
    seen = msgspec.json.decode(rejected.reason, type=dict[str, tuple[int, ...]])
    mine = {
        name: [e.position for e in events if boundary_of(name, command.thing, command.box, e)]  # type: ignore[attr-defined]
        for name in seen
    }
    oldest, newest = before, len(events)
    for name, positions in seen.items():
        assert list(positions) == mine[name][: len(positions)], f"{name}: not a beginning of the boundary"
        oldest = max(oldest, positions[-1] if positions else 0)
        if len(positions) < len(mine[name]):
            newest = min(newest, mine[name][len(positions)] - 1)
    assert oldest <= newest, f"rejected on a stale fold: {seen}, but the log had {before} events already"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_random_commands_of_two_services_on_one_log_see_their_whole_boundary(kind: str, tmp_path: Path) -> None:
    for seed in range(12 if kind == "memory" else 6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with opened(kind, folder) as write_store:
            try:
                assert await live_through(write_store, seed) > 150
            except AssertionError as error:
                error.add_note(f"seed {seed}")
                raise


@pytest.mark.parametrize(("page", "step"), [(1, 1), (3, 1), (5, 2), (50, 3)])
async def test_random_commands_see_their_whole_boundary_in_pages_and_steps_of_a_few_events(
    page: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twofold.command_service.log_folding.PAGE", page)
    monkeypatch.setattr("twofold.command_service.log_folding.STEP", step)
    for seed in range(3):
        assert await live_through(MemoryWriteStore(), seed, commands=12) > 50


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_long_histories_of_random_commands_see_their_whole_boundary() -> None:
    start = secrets.randbelow(10**9)
    for seed in range(start, start + 400):
        try:
            await live_through(MemoryWriteStore(), seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


async def test_the_check_finds_a_store_that_does_not_check_conditions() -> None:
    with pytest.raises(AssertionError, match=r"was decided on|not a beginning of the boundary"):
        await live_through(NoConditions(), 1)


async def test_the_check_finds_a_service_that_rejects_on_a_stale_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_refreshed(folds: object, folded: object, command_id: str | None = None) -> object:
        return folded, None

    async def broken(seed: int) -> None:
        with monkeypatch.context() as patched:
            write_store = MemoryWriteStore()
            async with Services(write_store) as first, Services(write_store) as second:
                await first.handle(PutByThing("t1", "b1"), "1")
                await second.handle(PutByThing("t1", "b1"), "2")
                patched.setattr(first.folds, "refresh", lambda *args: not_refreshed(first.folds, *args))
                before = (await write_store.read(ALL_EVENTS, limit=1)).head
                command = PutByThing("t1", "b1", 1)
                try:
                    await first.handle(command, "3")
                except Rejected as rejected:
                    await check_rejection(write_store, command, rejected, before)

    with pytest.raises(AssertionError, match="stale fold"):
        await broken(1)


@pytest.mark.parametrize("step", [1, 3, 7])
async def test_a_boundary_longer_than_a_page_is_seen_whole(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.command_service.log_folding.PAGE", 7)
    monkeypatch.setattr("twofold.command_service.log_folding.STEP", step)
    async with Services(MemoryWriteStore(), cached=0) as services:
        for n in range(60):
            await services.handle(Mark(f"t{n % 2}", "b"), f"mark-{n}")
            if n % 5 == 0:
                await services.handle(PutByAll("t1", "b"), f"put-{n}")
        await services.handle(PutByAll("t1", "b"), "last")
        assert await check_boundaries(services.write_store, services.codec) == 73


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_more_than_one_page_of_the_real_size_is_folded(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as write_store, Services(write_store) as writer:
        for start in range(0, 11_000, 1_000):
            await asyncio.gather(*(writer.handle(Mark("t", "b"), f"{start + n}") for n in range(1_000)))
        async with Services(write_store) as services:
            await services.handle(PutByAll("t", "b"), "put")
        (put,) = (await write_store.read(ALL_EVENTS, after=11_000)).events
        seen = writer.codec.decode(put).seen
        assert seen == {"thing": tuple(range(1, 11_001)), "both": tuple(range(1, 11_001)), "type": ()}


@pytest.mark.parametrize("cached", [0, 1, 2])
async def test_a_small_cache_forgets_folds_and_no_events(cached: int) -> None:
    async with Services(MemoryWriteStore(), cached=cached) as services:
        for n in range(60):
            await services.handle((PutByThing, PutByAll, PutByBoth)[n % 3](f"t{n % 4}", "b"), f"{n}")
            assert len(services.folds._cached) <= cached
        assert await check_boundaries(services.write_store, services.codec) == 60


async def test_the_fold_used_longest_ago_is_forgotten_first() -> None:
    async with Services(MemoryWriteStore(), cached=2) as services:
        for thing in ("a", "b", "a", "c"):
            await services.handle(
                PutByThing(thing, "b"), f"{thing}-{len(services.folds._cached)}-{secrets.token_hex(4)}"
            )
        assert [fold.tags for fold in services.folds._cached] == [("thing:a",), ("thing:c",)]


async def test_a_conflict_is_decided_anew_on_what_came_between() -> None:
    write_store = MemoryWriteStore()
    async with Services(write_store) as first, Services(write_store) as second:
        for n in range(10):
            await first.handle(PutByThing("t", "b"), f"first-{n}")
            await second.handle(PutByThing("t", "b"), f"second-{n}")
        assert await check_boundaries(write_store, first.codec) == 20


async def test_whoever_always_comes_second_gets_conflict_and_writes_nothing() -> None:
    write_store = MemoryWriteStore()
    tries = 0

    class Overtaken(YieldingStore):
        async def append(self, batch: Sequence[Append]) -> list[Outcome]:
            nonlocal tries
            tries += 1
            await fast.handle(PutByThing("t", "b"), f"fast-{tries}")
            return await super().append(batch)

        async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
            # A store that cannot be reserved: others write in between.
            page, _ = await write_store.newer(conditions)
            return await self.append(await decide(page))

    slow_store = Overtaken(write_store, Random(1))
    async with Services(write_store) as fast, Services(slow_store, retries=3) as slow:  # type: ignore[arg-type]
        with pytest.raises(Conflict, match="4 times in a row"):
            await slow.handle(PutByThing("t", "b"), "slow")
        assert tries == 4
        assert {e.metadata.command_id for e in (await write_store.read(ALL_EVENTS)).events} == {
            f"fast-{n}" for n in range(1, 5)
        }
