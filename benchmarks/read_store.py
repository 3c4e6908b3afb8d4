"""`python -m benchmarks.read_store [STORE …]`: `save` and `load` of read stores against their bare drivers."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from benchmarks.harness import run
from benchmarks.read_store_sides import STORES, Rows, Sides
from twofold.read_store.port import Change, ReadModel, VersionedRow

BATCH = 1_000
BATCHES = 200
ROUNDS = 5

Rates = dict[str, float]


class Summary(msgspec.Struct, frozen=True):
    """The row of the measurement."""

    order_id: str
    customer_id: str
    total: int
    paid: bool = False


MODELS = {
    "no index": ReadModel("summaries", 1, Summary),
    "find_by customer": ReadModel("summaries", 1, Summary, (("customer_id",),)),
    "find_by customer, order_by total": ReadModel("summaries", 1, Summary, (("customer_id",),), ("total",)),
}


def work(batch: int, batches: int) -> list[Rows]:
    """Rows as a catch-up brings them: keys in order, of which every other batch meets again."""
    found: list[Rows] = []
    for start in range(0, batch * batches // 2, batch):
        rows = [Summary(f"o-{n:08d}", f"c-{n * 7919 % 10_000}", n % 997) for n in range(start, start + batch)]
        found.append({row.order_id: VersionedRow(row, len(found) + 1) for row in rows})
        found.append({row.order_id: VersionedRow(row, len(found) + 1, 0, (row,)) for row in rows})
    return found


async def ours(sides: Sides, folder: Path, model: ReadModel, batches: Sequence[Rows]) -> Rates:
    """Rows a second through the store: new ones, those that are there, and loaded ones."""
    spent = {"new": 0.0, "again": 0.0, "load": 0.0}
    async with sides.store(folder) as store:
        await store.prepare([model])
        for n, rows in enumerate(batches):
            began = time.perf_counter()
            await store.save(Change(model, "log", n, n + 1, 0, rows))
            saved = time.perf_counter()
            assert len(await store.load(model, list(rows))) == len(rows)
            spent["again" if n % 2 else "new"] += saved - began
            spent["load"] += time.perf_counter() - saved
    return _rates(spent, batches)


async def bare(sides: Sides, folder: Path, model: ReadModel, batches: Sequence[Rows]) -> Rates:
    """The same by the bare driver, which takes and gives rows as they are stored."""
    spent = {"new": 0.0, "again": 0.0, "load": 0.0}
    async with sides.bare(folder, model) as driver:
        made = [driver.made(rows) for rows in batches]
        for n, batch in enumerate(made):
            began = time.perf_counter()
            await driver.save(batch, n + 1)
            saved = time.perf_counter()
            assert await driver.load(list(batches[n])) == len(batches[n])
            spent["again" if n % 2 else "new"] += saved - began
            spent["load"] += time.perf_counter() - saved
    return _rates(spent, batches)


def _rates(spent: Rates, batches: Sequence[Rows]) -> Rates:
    rows = sum(map(len, batches))
    return {name: (rows if name == "load" else rows / 2) / seconds for name, seconds in spent.items()}


def compare(name: str, sides: Sides, batches: Sequence[Rows], rounds: int) -> None:
    """Print rows a second of both and their ratio, the median of some rounds."""
    for label, model in MODELS.items():
        pairs: list[tuple[Rates, Rates]] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                theirs = run(bare(sides, Path(folder), model, batches))
                pairs.append((run(ours(sides, Path(folder), model, batches)), theirs))
        for what in ("new", "again", "load"):
            ratio = statistics.median(mine[what] / theirs[what] for mine, theirs in pairs)
            mine, theirs = (statistics.median(each[what] for each in column) for column in zip(*pairs, strict=True))
            print(
                f"{name:10} {label:32} {what:6} store {mine:9,.0f} rows/s   bare driver {theirs:9,.0f} rows/s"
                f"   ratio {ratio:.2f}",
                flush=True,
            )


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(STORES)))
@click.option("--batch", default=BATCH, help="Rows in a batch.")
@click.option("--batches", default=BATCHES)
@click.option("--rounds", default=ROUNDS)
def main(names: tuple[str, ...], batch: int, batches: int, rounds: int) -> None:
    """Measure all stores, or those named."""
    for name in names or STORES:
        with STORES[name]() as sides:
            compare(name, sides, work(batch, batches), rounds)


if __name__ == "__main__":
    main()
