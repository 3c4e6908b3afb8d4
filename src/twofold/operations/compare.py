"""In charge of comparing two generations of a projection row by row, while both are followed for."""

from collections.abc import Callable

import msgspec

from twofold.operations.looking import Difference, Look, Seen, difference, verdict
from twofold.read_store.port import ReadStore
from twofold.world import World
from twofold.write_store.port import WriteStore

PAGE = 1_000
"""Rows of each generation that are held in memory at once, and keys that are looked at again together."""
SAMPLE = 20
PATIENCE = 10.0
_PAUSE = 0.05
_LOOKS = 1_000

OnRows = Callable[[int], None]
"""Hears how many rows are compared."""


class Comparison(msgspec.Struct, frozen=True):
    """How the rows of two generations compare, `old` being the one before. `sample` are some that differ.

    `rows` are keys with a row in one of them at least: the sum of the others. `parked` are set aside in one of them;
    `undecided` are those of which no two looks could be had that belong to one position.
    """

    name: str
    old: int
    new: int
    rows: int
    equal: int
    different: int
    only_old: int
    only_new: int
    parked: int
    undecided: int
    sample: list[Difference]

    @property
    def same(self) -> bool:
        """Whether no row is known to differ."""
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
    on_rows: OnRows | None = None,
) -> Comparison:
    """Compare all rows of two generations of a projection, page by page, in the order of their keys.

    Rows count as different only where they are of one position: where one side is ahead, both are looked at again,
    for `patience` seconds in all. The stores may be open for reading only; the generations may be of different versions
    and row types, and one that nobody follows for any more is compared as far as it came. `row` is the type of both,
    where it is known: then the order that sets are stored in is no difference. UnknownMessage where one generation is
    not there.
    """
    comparing = _Comparing(
        Look(write_store, read_store, name, old), Look(write_store, read_store, name, new), row, world, sample, patience
    )
    await comparing.run(page, on_rows or _tell_nobody)
    return comparing.result()


def _tell_nobody(rows: int) -> None:
    return None


class _Comparing:
    """One comparison under way."""

    def __init__(self, old: Look, new: Look, row: type | None, world: World, sample: int, patience: float) -> None:
        self._old = old
        self._new = new
        self._row = row
        self._world = world
        self._most = sample
        self._left = patience
        self._equal = self._different = self._only_old = self._only_new = self._parked = self._undecided = 0
        self._sample: list[Difference] = []

    async def run(self, limit: int, on_rows: Callable[[int], None]) -> None:
        again: list[str] = []
        after: str | None = ""
        while after is not None:
            old, new = await self._old.page(after, limit), await self._new.page(after, limit)
            # Behind the end of the shorter page one side is not known yet.
            after = min((each for each in (old.upto, new.upto) if each is not None), default=None)
            keys = sorted(key for key in old.rows.keys() | new.rows.keys() if after is None or key <= after)
            again += [
                key
                for key in keys
                if not self._count(
                    key, old.rows.get(key) or self._old.absent(key), new.rows.get(key) or self._new.absent(key)
                )
            ]
            if len(again) >= limit or after is None:
                await self._settle(again)
                again = []
            on_rows(self._rows)
            # Files are read on the event loop: whoever runs on it, too, has a turn now and then.
            await self._world.sleep(0)

    async def _settle(self, keys: list[str]) -> None:
        """Look again at what could not be compared, until it can or patience is at its end."""
        for _ in range(_LOOKS):
            if not keys:
                return
            old, new = await self._old.of(keys), await self._new.of(keys)
            keys = [key for key in keys if not self._count(key, old[key], new[key])]
            if self._left <= 0:
                break
            began = self._world.monotonic()
            await self._world.sleep(_PAUSE if keys else 0)
            self._left -= self._world.monotonic() - began
        self._undecided += len(keys)

    def _count(self, key: str, old: Seen, new: Seen) -> bool:
        """Count a key where it is known how its rows compare."""
        match verdict(old, new, self._row):
            case None:
                return False
            case "parked":
                self._parked += 1
            case "same":
                # Deleted on both sides meanwhile: there is no row to count.
                self._equal += old.row is not None
            case "different":
                self._only_old += not new.there
                self._only_new += not old.there
                self._different += new.there and old.there
                if len(self._sample) < self._most:
                    self._sample.append(difference(key, old, new, self._row))
        return True

    @property
    def _rows(self) -> int:
        known = self._equal + self._different + self._only_old + self._only_new
        return known + self._parked + self._undecided

    def result(self) -> Comparison:
        return Comparison(
            self._old.name,
            self._old.generation,
            self._new.generation,
            self._rows,
            self._equal,
            self._different,
            self._only_old,
            self._only_new,
            self._parked,
            self._undecided,
            self._sample,
        )
