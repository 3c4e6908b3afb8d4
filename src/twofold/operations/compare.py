"""Comparing two generations of a projection row by row, while followers write both."""

from dataclasses import dataclass

import msgspec

from twofold.operations.progress import OnRows, no_rows
from twofold.operations.row_differences import Difference, compare_rows, difference
from twofold.operations.row_inspector import RowInspector, RowObservation, read_both
from twofold.read_store.port import ReadStore
from twofold.world import World
from twofold.write_store.port import WriteStore

PAGE = 1_000
"""Rows of each generation that are in memory at once, and keys that are read again together."""
SAMPLE = 20
PATIENCE = 10.0
_PAUSE = 0.05
_ATTEMPTS = 1_000


class Comparison(msgspec.Struct, kw_only=True):
    """The result of comparing the `old` generation with the `new` one. `sample` are some of the differences.

    `rows` counts the keys with a row in at least one generation: the sum of the other counts. `parked` keys are parked
    in one of them; the rows of `undecided` keys were never read at one position.
    """

    name: str
    old: int
    new: int
    rows: int = 0
    equal: int = 0
    different: int = 0
    only_old: int = 0
    only_new: int = 0
    parked: int = 0
    undecided: int = 0
    sample: list[Difference] = []

    @property
    def same(self) -> bool:
        """Whether no difference is known."""
        return not (self.different or self.only_old or self.only_new)


async def compare(
    write_store: WriteStore,
    read_store: ReadStore,
    name: str,
    old: int,
    new: int,
    world: World,
    *,
    row: type | None = None,
    sample: int = SAMPLE,
    page: int = PAGE,
    patience: float = PATIENCE,
    on_rows: OnRows = no_rows,
) -> Comparison:
    """Compare all rows of two generations of a projection, page by page, in the order of their keys.

    Rows count as different only if they belong to one position. Where one side is ahead, both are read again, for
    `patience` seconds in all. The stores may be open read-only. The generations may have different versions and row
    types; one that is no longer followed is compared as far as it is. `row` is the type of both, if known: then the
    order of sets makes no difference. UnknownMessage if one of the generations does not exist.
    """
    comparing = _Comparing(
        RowInspector(write_store, read_store, name, old),
        RowInspector(write_store, read_store, name, new),
        row,
        world,
        sample,
        patience,
    )
    await comparing.run(page, on_rows)
    return comparing.result


@dataclass
class _Comparing:
    """One comparison."""

    old: RowInspector
    new: RowInspector
    row_type: type | None
    world: World
    sample_size: int
    seconds_left: float

    def __post_init__(self) -> None:
        self.result = Comparison(name=self.old.name, old=self.old.generation, new=self.new.generation)

    async def run(self, limit: int, on_rows: OnRows) -> None:
        undecided: list[str] = []
        after: str | None = ""
        while after is not None:
            pairs, after = await read_both(self.old, self.new, after, limit)
            undecided += [key for key, (old, new) in pairs.items() if not self._count(key, old, new)]
            if len(undecided) >= limit or after is None:
                await self._decide(undecided)
                undecided = []
            on_rows(self.result.rows + len(undecided))
            # SQLite is read on the event loop, so other tasks need a turn.
            await self.world.sleep(0)

    async def _decide(self, keys: list[str]) -> None:
        """Read keys again until they can be compared, or the patience has run out."""
        for _ in range(_ATTEMPTS):
            if not keys:
                return
            old, new = await self.old.rows(keys), await self.new.rows(keys)
            keys = [key for key in keys if not self._count(key, old[key], new[key])]
            if self.seconds_left <= 0:
                break
            start = self.world.monotonic()
            await self.world.sleep(_PAUSE if keys else 0)
            self.seconds_left -= self.world.monotonic() - start
        self.result.undecided += len(keys)
        self.result.rows += len(keys)

    def _count(self, key: str, old: RowObservation, new: RowObservation) -> bool:
        """Count a key, if it is known how its rows compare."""
        result = self.result
        match compare_rows(old, new, self.row_type):
            case None:
                return False
            case "parked":
                result.parked += 1
            case "same" if old.row is None:
                # Deleted on both sides meanwhile: there is no row to count.
                return True
            case "same":
                result.equal += 1
            case "different":
                result.only_old += not new.exists
                result.only_new += not old.exists
                result.different += new.exists and old.exists
                if len(result.sample) < self.sample_size:
                    result.sample.append(difference(key, old, new, self.row_type))
        result.rows += 1
        return True
