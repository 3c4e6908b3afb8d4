"""A log and an outside that fail at random, for policies that must keep their order all the same."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random

from tests.sample_domains.counters import Count
from tests.synchronization.policy_helpers import MARK, Noted, Paid
from twofold.errors import Unavailable
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome


class FaultyLog(MemoryWriteStore):
    """A log that many processes write one after another. Some appends fail, before or after they are made."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.share = 0.0
        self.dies_after: int | None = None

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise Unavailable("The process is dead.")
        fails = self.random.random() < self.share
        if fails and self.random.random() < 0.5:
            raise Unavailable("The log was away before this.")
        outcomes = await super().append(batch)
        if fails:
            raise Unavailable("The answer was lost.")
        return outcomes

    async def close(self) -> None:
        return None


class Outside:
    """What the policy calls: for a while some calls fail, and most of those for events of the types `away`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.share = 0.0
        self.away: tuple[type, ...] = ()
        self.running: Counter[str] = Counter()

    async def answer(self, event: Noted | Paid) -> list[Count]:
        assert not self.running[event.counter], "two events of one key at the same time"
        self.running[event.counter] += 1
        try:
            for _ in range(self.random.randrange(4)):
                await asyncio.sleep(0)
            if self.random.random() < (0.9 if isinstance(event, self.away) else self.share):
                raise self.random.choice([ValueError("a bug"), ConnectionError("away"), Unavailable("away")])
        finally:
            self.running[event.counter] -= 1
        return [Count([event.counter], MARK + event.by), Count([event.counter], 2 * MARK + event.by)]
