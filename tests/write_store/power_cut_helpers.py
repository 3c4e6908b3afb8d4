"""Simulated power cuts: a log that is written until the disk fails, and what is there afterwards."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from tests.write_store.disk_helpers import command, connection_of, faulty_disk, positions_and_ids
from twofold.errors import Unavailable
from twofold.testing.faulty_disk import FaultyDisk
from twofold.write_store.port import Append, Appended
from twofold.write_store.sqlite import SqliteWriteStore

Sabotage = Callable[[SqliteWriteStore, FaultyDisk], None]


class PowerCuts:
    """One log through many power cuts. What was acknowledged is kept here, outside of its disk."""

    def __init__(self, seed: int, sabotage: Sabotage | None = None) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.acknowledged: dict[int, Appended] = {}
        self.unknown: dict[int, Append] = {}
        self._sabotage = sabotage
        self._appends: dict[int, Append] = {}
        self._next = 1

    async def run(self, cuts: int) -> None:
        """AssertionError where a cut loses, doubles or tears something; TwofoldError where the log does not open."""
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            for cut in range(cuts):
                after = here / str(cut + 1)
                after.mkdir()
                await self._write_until_dark(here / str(cut), after)
                try:
                    await self._check(after)
                except AssertionError as error:
                    error.add_note(f"seed {self.seed}, cut {cut}, {len(self.acknowledged)} commands acknowledged")
                    raise

    async def _write_until_dark(self, before: Path, after: Path) -> None:
        with faulty_disk() as disk:
            store = SqliteWriteStore(before / "log.db", vfs=disk.name)
            if self._sabotage is not None:
                self._sabotage(store, disk)
            if self.random.random() < 0.3:
                connection_of(store).wal_autocheckpoint(self.random.randint(1, 40))
            disk.cut_power(after=self.random.randint(0, 80))
            while not disk.without_power:
                batch = [self._command() for _ in range(self.random.choice((1, 1, 2, 8, 40)))]
                numbers = range(self._next - len(batch), self._next)
                try:
                    outcomes = await store.append(batch)
                except Unavailable:
                    self.unknown.update(zip(numbers, batch, strict=True))
                    break
                for number, outcome in zip(numbers, outcomes, strict=True):
                    assert isinstance(outcome, Appended)
                    self.acknowledged[number] = outcome
            disk.survive(after, self.random.random)
            disk.without_power = False
            disk.cut_power(after=1_000_000)
            await store.close()

    async def _check(self, after: Path) -> None:
        store = SqliteWriteStore(after / "log.db")
        try:
            found = await positions_and_ids(store)
            assert [position for position, _ in found] == list(range(1, len(found) + 1)), "a gap"
            ids = [event_id for _, event_id in found]
            assert len(set(ids)) == len(ids), "something is there twice"
            for number, outcome in self.acknowledged.items():
                first = outcome.position - outcome.count
                wanted = [f"command-{number}.{i}" for i in range(outcome.count)]
                assert ids[first : outcome.position] == wanted, f"command {number} was acknowledged and is lost"
            await self._send_again(store)
        finally:
            await store.close()

    async def _send_again(self, store: SqliteWriteStore) -> None:
        before = {event_id for _, event_id in await positions_and_ids(store)}
        batch_is_there: set[bool] = set()
        for number, append in self.unknown.items():
            (outcome,) = await store.append([append])
            assert isinstance(outcome, Appended)
            there = {event.id in before for event in append.events}
            assert there <= {outcome.repeated}, f"command {number}: half of its events are there"
            batch_is_there.add(outcome.repeated)
            self.acknowledged[number] = msgspec.structs.replace(outcome, repeated=False)
        assert len(batch_is_there) <= 1, "half of a batch is there"
        self.unknown.clear()
        for number in self.random.sample(sorted(self.acknowledged), min(5, len(self.acknowledged))):
            again = self._appends[number]
            (outcome,) = await store.append([again])
            assert outcome == msgspec.structs.replace(self.acknowledged[number], repeated=True)

    def _command(self) -> Append:
        number = self._next
        self._next += 1
        append = command(
            number,
            events=self.random.choice((0, 1, 1, 2, 5)),
            tag=f"thing:{self.random.randint(1, 4)}",
            size=self.random.choice((2, 40, 900, 9_000)),
        )
        self._appends[number] = append
        return append
