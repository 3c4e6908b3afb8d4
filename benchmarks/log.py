"""Measures the write store alone: bulk appends, conditions and loads, on a small log and on a large one."""

import statistics
import tempfile
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import peers, raw
from benchmarks.bank import Account, AccountId, Deposited
from benchmarks.harness import Result, compare, result, run
from twofold import AppendCondition, DecisionModel, Event, EventQuery, Metadata, QueryItem
from twofold.codec import EventCodec
from twofold.command_service.folds import Folds
from twofold.command_service.snapshots import Snapshots
from twofold.domain.decision import BoundModel, Fold
from twofold.domain.events import NewEvent
from twofold.domain.module import Wiring
from twofold.domain.tags import TagReader
from twofold.world import RealWorld
from twofold.write_store.port import Append, WriteStore
from twofold.write_store.sqlite import SqliteWriteStore

_TIME = 1_700_000_000_000_000
_PAYLOAD = b'{"account_id":"a-123","amount":100}'

Opening = Awaitable[WriteStore]


async def _opened(folder: Path) -> WriteStore:
    return SqliteWriteStore(folder / "log.db")


def _append(number: int, type: str, tags: tuple[str, ...], after: int) -> Append:
    command_id = f"{number * 2_654_435_761 % 4_294_967_296:08x}-7f4b-4c55-9a6d-2f1d0a3b4c5d"
    event = NewEvent(f"{command_id}.0", type, 1, tags, _PAYLOAD)
    unseen = AppendCondition(EventQuery((QueryItem((type,), tags),)), after)
    return Append(Metadata(_TIME, command_id, command_id), (event,), (unseen,), command_id, b"0123456789abcdef")


async def append_batches(opening: Opening, batches: int, batch: int) -> float:
    """Conditional appends a second, in such batches."""
    write_store = await opening
    # Two thousand accounts: each append is conditional, and none breaks another's of its batch.
    numbers = range(1, batches * batch + 1)
    all_work = [_append(n, "deposited", (f"account:a-{n % 2_000}",), (n - 1) // batch * batch) for n in numbers]
    number = len(all_work)
    start = time.perf_counter()
    for first in range(0, number, batch):
        await write_store.append(all_work[first : first + batch])
    took = time.perf_counter() - start
    assert (await write_store.read(EventQuery())).head == number, "every append was accepted"
    await write_store.close()
    return number / took


def bulk(rounds: int, seconds: float) -> list[Result]:
    """Conditional appends with a command id each, against the same rows by the bare driver."""
    found: list[Result] = []
    for batch in (32, 128, 512, 1_000):
        batches = max(5, int(40_000 * seconds / batch))
        figures = compare(
            rounds,
            ours=lambda folder, n=batches, b=batch: run(append_batches(_opened(folder), n, b)),
            raw=partial(raw.inserts, batches=batches, batch=batch),
            eventsourcing=partial(peers.bulk, batches=max(3, batches // 4), batch=batch),
        )
        label = f"append, batches of {batch}"
        found.append(result(label, figures, "ours", "raw", "ev/s", must=0.7, ambition=0.85))
        found.append(result(label, figures, "ours", "eventsourcing", "ev/s", must=2.0, ambition=2.5))
    return found


async def load_account(opening: Opening, events: int, times: int) -> float:
    """Milliseconds to fold an account of so many events."""
    write_store = await opening
    codec, world = EventCodec([Event(Deposited)]), RealWorld()
    readers = {Deposited: TagReader(Deposited)}
    model = BoundModel(DecisionModel(Account, by=AccountId), {Deposited: "deposited"}, readers)
    wanted = [codec.encode(Deposited("a-1", 1), f"c-{n}", 0) for n in range(events)]
    others = [codec.encode(Deposited(f"b-{n}", 1), f"d-{n}", 0) for n in range(events)]
    mixed = tuple(event for pair in zip(wanted, others, strict=True) for event in pair)
    await write_store.append([Append(Metadata(_TIME, "c", "c"), mixed)])
    waits: list[float] = []
    for _ in range(times):
        folds = Folds(write_store, codec, world, Snapshots(write_store, Wiring([]), world, 0), 0)
        start = time.perf_counter()
        folded = await folds.load([Fold(model, ("account:a-1",))])
        waits.append((time.perf_counter() - start) * 1_000)
        assert next(iter(folded.states.values())) == Account(events)
    await write_store.close()
    return statistics.median(waits)


def loads(rounds: int, seconds: float) -> list[Result]:
    """From stored events to a folded model, against loading an aggregate of as many events."""
    found: list[Result] = []
    for events, bar, ambition in ((10, None, None), (100, None, None), (1_000, 1 / 15, 1 / 30)):
        times = max(5, int(60 * seconds))
        figures = compare(
            rounds,
            ours=lambda folder, n=events, t=times: run(load_account(_opened(folder), n, t)),
            eventsourcing=partial(peers.load, events=events, times=times),
        )
        label = f"load {events:,} events"
        found.append(result(label, figures, "ours", "eventsourcing", "ms", must=bar, ambition=ambition, less=True))
    return found


SHAPES = {
    "one rare tag": QueryItem(("deposited",), ("account:a-7",)),
    "a hot and a rare tag": QueryItem(("deposited",), ("bank:one", "account:a-7")),
    "a rare type": QueryItem(("closed",), ()),
    "a hot tag with a rare type": QueryItem(("closed",), ("bank:one",)),
    "a type nobody stored": QueryItem(("never",), ()),
}


async def filled(write_store: WriteStore, events: int) -> WriteStore:
    """The same store with so many events, ten of them of the shapes that are asked for."""
    rare = {round(events * (k + 0.5) / 10): k for k in range(10)}
    for start in range(0, events, 10_000):
        batch = []
        for n in range(start, min(events, start + 10_000)):
            type, account = ("closed", "a-7") if rare.get(n, 0) % 2 else ("deposited", "a-7" if n in rare else f"x-{n}")
            event = NewEvent(f"c-{n}.0", type, 1, (f"account:{account}", "bank:one"), _PAYLOAD)
            batch.append(Append(Metadata(_TIME, f"c-{n}", f"c-{n}"), (event,)))
        await write_store.append(batch)
    return write_store


async def _asked(write_store: WriteStore, item: QueryItem, times: int) -> float:
    condition = [AppendCondition(EventQuery((item,)), 0)]
    waits: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        await write_store.newer(condition)
        waits.append((time.perf_counter() - start) * 1_000)
    return statistics.median(waits)


async def _checked(write_store: WriteStore, item: QueryItem, times: int) -> float:
    head = (await write_store.read(EventQuery())).head
    waits: list[float] = []
    for n in range(times):
        # After a position before this process's memory of the tail: the file itself must be asked.
        append = Append(
            Metadata(_TIME, f"check-{n}", f"check-{n}"), (), (AppendCondition(EventQuery((item,)), head // 2),)
        )
        start = time.perf_counter()
        await write_store.append([append])
        waits.append((time.perf_counter() - start) * 1_000)
    return statistics.median(waits)


def growth(rounds: int, seconds: float) -> list[Result]:
    """What a boundary costs to load and to check on a log of 10,000 events and on one of 1,000,000."""
    large = 1_000_000 if seconds >= 1 else 100_000
    return run(_growth(rounds, large, max(20, int(200 * seconds))))


async def _growth(rounds: int, large: int, times: int) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        stores = [await filled(SqliteWriteStore(Path(folder) / f"{n}.db"), n) for n in (10_000, large)]
        print(f"filled logs of 10,000 and {large:,} events in {time.perf_counter() - start:.0f} s", flush=True)
        for write_store in stores:
            await write_store.close()
        stores = [SqliteWriteStore(Path(folder) / f"{n}.db") for n in (10_000, large)]
        found = await compare_sizes(stores, rounds, times, large)
        for write_store in stores:
            await write_store.close()
    return found


async def compare_sizes(stores: Sequence[WriteStore], rounds: int, times: int, large: int) -> list[Result]:
    """What each shape of boundary costs on the second store, which holds `large` events, against the first."""
    found: list[Result] = []
    for what, measure in (("load", _asked), ("condition", _checked)):
        for shape, item in SHAPES.items():
            figures: dict[str, list[float]] = {"small": [], "large": []}
            for _ in range(rounds):
                figures["small"].append(await measure(stores[0], item, times))
                figures["large"].append(await measure(stores[1], item, times))
            label = f"{what} by {shape}, {large:,} events"
            found.append(result(label, figures, "large", "small", "ms", must=1.5, ambition=1.2, less=True))
    return found
