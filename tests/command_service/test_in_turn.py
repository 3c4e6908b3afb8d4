"""Commands of one process that meet on a boundary are decided in turn, each on what the one before leaves."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.command_service.service_helpers import Services, YieldingStore, opened
from tests.command_service.turn_probe import (
    TURNS,
    TURNS_WITH_ROWS,
    Invoice,
    Take,
    TakeByType,
    TakeFromBox,
    check_turn_rejection,
    check_turns,
)
from twofold.codec import EventCodec
from twofold.command_service.folds import Folds
from twofold.command_service.pending import PendingAppend
from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.domain.module import Module
from twofold.errors import Rejected, Unavailable
from twofold.write_store.inline_state import space_of
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Appended, Conflict, Outcome, WriteStore
from twofold.write_store.reserving import DecideReserved

KINDS = ["memory", "sqlite"]
MODULES = {"events alone": TURNS, "with inline rows": TURNS_WITH_ROWS}


class FailingStore(YieldingStore):
    """A store whose appends fail at random: before anything is written, or after, so that the outcome is unknown."""

    failures = 0
    refused = 0
    reads = 0
    reservations = 0
    share = 0.15

    async def newer(self, *args: object) -> object:
        self.reads += 1
        return await super().newer(*args)

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        return await self._disturbed(super().append(batch), any(append.events for append in batch))

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        self.reservations += 1
        return await self._disturbed(super().append_reserved(conditions, decide), True)

    async def _disturbed(self, append: Coroutine[Any, Any, list[Outcome]], has_events: bool) -> list[Outcome]:
        fails = self._random.random() if has_events else 1.0
        if fails < self.share:
            self.failures += 1
            append.close()
            await self._yield()
            raise Unavailable("The store was cut off before.")
        outcomes = await append
        self.refused += sum(isinstance(outcome, Conflict) for outcome in outcomes)
        if fails < 2 * self.share:
            self.failures += 1
            raise Unavailable("The store was cut off after.")
        return outcomes


class Life:
    """Many callers with random commands on few boundaries, and what they were answered."""

    def __init__(self, store: WriteStore, services: Sequence[Services], random: Random) -> None:
        self.store = store
        self.services = services
        self.random = random
        self.acknowledged: set[str] = set()
        self.answers = {"written": 0, "rejected": 0, "unavailable": 0, "cancelled": 0}

    async def caller(self, number: int, commands: int) -> None:
        for n in range(commands):
            command_id, service = f"{number}-{n}", self.random.choice(self.services)
            before = (await self.store.read(ALL_EVENTS, limit=1)).head
            sent = asyncio.create_task(service.handle(self._command(), command_id))
            if self.random.random() < 0.1:
                for _ in range(self.random.randint(0, 12)):
                    await asyncio.sleep(0)
                sent.cancel()
            try:
                await sent
                self.acknowledged.add(command_id)
                self.answers["written"] += 1
            except Rejected as rejected:
                await check_turn_rejection(self.store, service.codec, rejected, before)
                self.answers["rejected"] += 1
            except Unavailable:
                self.answers["unavailable"] += 1
            except asyncio.CancelledError:
                self.answers["cancelled"] += 1

    def _command(self) -> object:
        random = self.random
        things, box = random.sample(["t1", "t2", "t3"], random.choice((1, 1, 2))), random.choice(("b1", "b2"))
        if random.random() < 0.2:
            return Invoice(box)
        return random.choice((Take, Take, TakeFromBox, TakeByType))(things, box, random.choice((0, 0, 1, 2, 3)))

    async def check(self, codec: EventCodec) -> None:
        written = await check_turns(self.store, codec)
        for command_id in self.acknowledged:
            _, outcome = await self.store.newer([], command_id)
            assert outcome is not None, f"{command_id} was acknowledged and is not there"
            assert (command_id in written) == (outcome.count > 0)


async def live(store: WriteStore, seed: int, module: Module, nodes: int = 1, commands: int = 20) -> tuple[Life, int]:
    random = Random(seed)
    faulty = FailingStore(store, random)
    services = [
        Services(faulty, module, cached=random.choice((0, 1, 3, 1_000)), retries=10_000)  # type: ignore[arg-type]
        for _ in range(nodes)
    ]
    async with services[0]:
        for other in services[1:]:
            await other.__aenter__()
        life = Life(store, services, random)
        callers = [asyncio.create_task(life.caller(number, commands)) for number in range(12)]
        try:
            await asyncio.wait_for(asyncio.gather(*callers), 100)
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        for other in services[1:]:
            await other.__aexit__()
        assert not services[0].commands._turns._waiting, "somebody still waits"
        assert not services[0].folds._pending._by_tag, "an append is still pending"
    await life.check(services[0].codec)
    return life, faulty.failures


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_random_life_with_failures_and_cancellations_is_a_serial_history(
    kind: str, nodes: int, module: str, tmp_path: Path
) -> None:
    seen = dict.fromkeys(("written", "rejected", "unavailable", "cancelled"), 0)
    for seed in range(6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with opened(kind, folder) as store:
            try:
                life, failures = await live(store, seed, MODULES[module], nodes)
                if module == "with inline rows":
                    await check_rows(store, life.services[0])
            except AssertionError as error:
                error.add_note(f"seed {seed}")
                raise
            assert failures > 3
            for answer, times in life.answers.items():
                seen[answer] += times
    assert min(seen.values()) > 20, seen


async def check_rows(store: WriteStore, services: Services) -> None:
    """AssertionError unless each row is what the events of its key fold to."""
    commands: dict[str, tuple[str, ...]] = {}
    for recorded in (await store.read(ALL_EVENTS)).events:
        event = services.codec.decode(recorded)
        commands[event.box] = (*commands.get(event.box, ()), event.command)
    (projection,) = services.inline._projections
    rows = await store.rows(space_of(projection.label), list(commands))
    assert {key: projection.read(key, row).row.commands for key, row in rows.items()} == commands  # type: ignore[union-attr]


async def test_the_check_finds_a_store_that_does_not_check_what_an_append_rests_on() -> None:
    class Careless(MemoryWriteStore):
        async def append(self, batch: Sequence[Append]) -> list[Outcome]:
            import msgspec  # noqa: PLC0415

            return await super().append(
                [msgspec.structs.replace(each, rests_on=each.rests_on and ()) for each in batch]
            )

    with pytest.raises(AssertionError, match=r"was decided on|is the \d+th|rejected on what was never"):
        for seed in range(10):
            await live(Careless(), seed, TURNS, nodes=2)


async def test_the_check_finds_a_process_that_writes_what_rests_on_a_failed_append(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PendingAppend, "undermined", property(lambda _: False))
    resolve = Folds._resolve

    def careless(folds: Folds, seen: Any) -> bool:
        resolve(folds, seen)
        return True

    monkeypatch.setattr(Folds, "_resolve", careless)
    with pytest.raises(AssertionError, match=r"was decided on|is the \d+th|rejected on what was never"):
        for seed in range(10):
            await live(MemoryWriteStore(), seed, TURNS)


@pytest.mark.parametrize("kind", KINDS)
async def test_two_hundred_invoices_at_once_get_two_hundred_numbers_without_a_gap(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store, Services(store, TURNS, retries=0) as services:
        written = await asyncio.gather(*(services.handle(Invoice(f"b{n}"), f"c{n}") for n in range(200)))
        assert len(written) == 200
        assert await check_turns(store, services.codec) == [f"c{n}" for n in range(200)]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("kind", KINDS)
async def test_commands_on_one_boundary_are_written_in_the_order_in_which_they_came(
    kind: str, module: str, tmp_path: Path
) -> None:
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with opened(kind, folder) as store:
            slow = YieldingStore(store, Random(seed))
            async with Services(slow, MODULES[module], retries=0) as services:  # type: ignore[arg-type]
                sent: list[asyncio.Task[Appended]] = []
                for n in range(60):
                    sent.append(asyncio.create_task(services.handle(TakeFromBox(["t"], "b"), f"c{n}")))
                    # Some come while the first read is under way, some while batches are written.
                    await asyncio.sleep(0)
                await asyncio.gather(*sent)
                assert await check_turns(store, services.codec) == [f"c{n}" for n in range(60)]


async def test_after_a_failed_commit_what_waits_is_decided_again_in_order() -> None:
    store = MemoryWriteStore()

    class FailsOnce(YieldingStore):
        left = 1

        async def append(self, batch: Sequence[Append]) -> list[Outcome]:
            await asyncio.sleep(0)
            if self.left and any(append.events for append in batch):
                self.left = 0
                await asyncio.sleep(0)
                raise Unavailable("The store was cut off.")
            return await super().append(batch)

    async with Services(FailsOnce(store, Random(1)), TURNS, retries=0) as services:  # type: ignore[arg-type]
        await services.folds.load(services.commands._wiring.decisions[Invoice].boundary(Invoice("b")).folds)
        sent = []
        for n in range(20):
            sent.append(asyncio.create_task(services.handle(Invoice("b"), f"c{n}")))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Unavailable)]
        assert 0 < len(failed) < 20
        assert await check_turns(store, services.codec) == [f"c{n}" for n in range(20) if n not in failed]


async def test_a_rejection_waits_for_the_commit_it_rests_on() -> None:
    store = MemoryWriteStore()
    gate = asyncio.Event()

    class Held(YieldingStore):
        async def append(self, batch: Sequence[Append]) -> list[Outcome]:
            if any(append.events for append in batch):
                await gate.wait()
                raise Unavailable("The store was cut off.")
            return await super().append(batch)

    async with Services(Held(store, Random(1)), TURNS, retries=0) as services:  # type: ignore[arg-type]
        await services.folds.load(services.commands._wiring.decisions[Take].boundary(Take(["t"], "b")).folds)
        first = asyncio.create_task(services.handle(Take(["t"], "b"), "c1"))
        await asyncio.sleep(0)
        late = asyncio.create_task(services.handle(Take(["t"], "b", 1), "c2"))
        done, _ = await asyncio.wait([late], timeout=0.05)
        gate.set()
        assert not done, "it was rejected for an event that is not written"
        with pytest.raises(Unavailable):
            await first
        # Without the event of the first there is no reason to reject it any more: it meets the failing store.
        with pytest.raises(Unavailable):
            await late
        assert (await store.read(ALL_EVENTS)).head == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_id_twice_at_once_is_written_once_and_both_get_the_first_outcome(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as store:
        slow = YieldingStore(store, Random(3))
        async with Services(slow, TURNS, retries=0) as services:  # type: ignore[arg-type]
            sent = [services.handle(Take(["t"], "b"), f"c{n // 3}") for n in range(90)]
            outcomes = await asyncio.gather(*sent)
            for n in range(0, 90, 3):
                assert len({outcome.position for outcome in outcomes[n : n + 3]}) == 1
                assert [outcome.repeated for outcome in outcomes[n : n + 3]].count(False) == 1
            assert await check_turns(store, services.codec) == [f"c{n}" for n in range(30)]


async def test_two_nodes_on_disjoint_boundaries_refuse_each_other_nothing_and_read_nothing_again() -> None:
    store = FailingStore(MemoryWriteStore(), Random(5))
    store.share = 0.0
    async with Services(store, TURNS) as first, Services(store, TURNS) as second:  # type: ignore[arg-type]

        async def sender(services: Services, thing: str) -> None:
            for n in range(40):
                await services.handle(Take([thing], "b"), f"{thing}-{n}")

        await asyncio.gather(*(sender(first, f"a{n}") for n in range(4)), *(sender(second, f"b{n}") for n in range(4)))
        assert store.refused == 0
        assert store.reads < 30, "cached states were lost because another node wrote"
        assert len(await check_turns(store, first.codec)) == 320  # type: ignore[arg-type]
