"""Operators switch to the generation that was built, and back. No answer is older than one before it."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Total,
    Totals,
    add_up,
    count,
)
from tests.synchronization.cluster_helpers import Cluster, happen, totals
from tests.synchronization.rebuild_helpers import built, built_one, caught_up, switch
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Conflict, InvalidMessage, Unavailable
from twofold.query_service.view import View


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def test_what_cannot_be_switched_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        with pytest.raises(InvalidMessage, match="No rebuild of 'totals' is under way"):
            await app.projections.switch("totals")
        with pytest.raises(InvalidMessage, match="No earlier generation of 'totals' is on standby"):
            await app.projections.switch_back("totals")
        await app.send(Count(["a"]))
        await app.projections.rebuild(["totals"])
        assert await app.projections.rebuild(["totals"]) == {"totals": 2}, "to begin again is to go on"
        await until(lambda: built(app), "built")
        await app.projections.switch("totals")
        with pytest.raises(InvalidMessage, match="still on standby"):
            await app.projections.rebuild(["totals"])


async def test_nobody_goes_back_in_time_while_generations_are_switched_under_load(cluster: Cluster) -> None:
    stop = asyncio.Event()
    one: dict[str, Any] = {"projections": [totals(partitions=1)]}
    async with cluster.node(**one) as first, cluster.node(**one) as second:
        sums, asked = Sums(cluster, first), [0] * 4

        async def writes() -> None:
            n = 0
            while not stop.is_set():
                await happen(first, 1, start=n)
                n += 1

        async def reads(app: App, reader: int) -> None:
            """Reads with the newest position known and without one: neither is ever answered with less than before."""
            random, seen = Random(reader), 0
            while not stop.is_set():
                token = first.token((await first.log()).head) if random.random() < 0.5 else None
                answer = await app.ask(Totals(), position=token, timeout=30)
                assert answer.position >= (await first.position_of(token) if token else seen)
                assert answer.position >= seen
                seen = answer.position
                # What the rows say must be of that moment, too.
                assert sum(row.total for row in answer.value) == sums.at(answer.position)
                asked[reader] += 1
                # In memory nothing makes a caller wait: let the others have their turn.
                await asyncio.sleep(0)

        work = [asyncio.create_task(writes())]
        work += [asyncio.create_task(reads(app, reader)) for reader, app in enumerate((first, second) * 2)]
        for _ in range(4):
            await first.projections.rebuild(["totals"])
            await switch(first)
            await second.projections.drop("totals")
        await until(lambda: min(asked) > 3 or any(each.done() for each in work), "everybody asked")
        stop.set()
        await asyncio.gather(*work)
        assert first.models["totals"].generation == 5


class Sums:
    """The sum of all counters at each position, by a plain fold."""

    def __init__(self, cluster: Cluster, app: App) -> None:
        self._cluster = cluster
        self._app = app
        self._sums = [0]

    def at(self, position: int) -> int:
        for recorded, _ in self._cluster.log._events[len(self._sums) - 1 : position]:
            event = self._app.events.decode(recorded)
            self._sums.append(self._sums[-1] + event.by * len(set(event.counters)))
        return self._sums[position]


async def test_no_partition_of_the_new_generation_may_be_behind_that_of_the_one_that_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.app([totals(2)]) as app:
        await happen(app, 10)
        await until(lambda: caught_up(app), "caught up")
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        checkpoints = cluster.read_store.checkpoints

        async def partly() -> Any:
            """One partition of each stands at 4, as if it were halted there; of the new one the other is behind."""
            return [
                msgspec.structs.replace(
                    at,
                    progress=msgspec.structs.replace(
                        at.progress,
                        position={(1, 0): 10, (1, 2048): 4, (2, 0): 5, (2, 2048): 4}[at.generation, at.partition.first],
                    ),
                )
                for at in await checkpoints()
            ]

        monkeypatch.setattr(cluster.read_store, "checkpoints", partly)
        with pytest.raises(Unavailable, match="Generation 2 of 'totals' is 5 events behind"):
            await app.projections.switch("totals")
        monkeypatch.setattr(cluster.read_store, "checkpoints", checkpoints)
        assert await app.projections.switch("totals", generation=2) == 2


async def test_a_query_that_began_before_switch_and_drop_is_answered(tmp_path: Path) -> None:
    go, going = asyncio.Event(), asyncio.Event()

    async def slow(query: Totals, totals: View[Total]) -> list[Total]:
        before = await totals.get("a")
        going.set()
        await go.wait()
        found = await totals.find()
        assert found == [before]
        return found

    events, projection = [Counted, Ended], Projection("totals", add_up, key=CounterId)
    module = Module("counters", events=events, decisions=[count], projections=[projection], queries=[slow])
    async with app_in(tmp_path, module) as app:
        sent = await app.send(Count(["a"], 3))
        asked = asyncio.create_task(app.ask(Totals(), position=sent.token))
        await going.wait()
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        await app.projections.switch("totals")
        assert await app.projections.drop("totals") == [1]
        go.set()
        assert [each.total for each in (await asked).value] == [3]


async def test_a_switch_takes_a_key_back_to_an_earlier_event_only_where_it_is_forced(cluster: Cluster) -> None:
    bad = {5}

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by in bad:
            raise ArithmeticError("not this one")
        return add_up(row, event, counter)

    async def generation(after: int) -> int:
        """A new one, which cannot fold the event that adds `after`."""
        bad.clear()
        bad.add(after)
        number = (await app.projections.rebuild(["totals"]))["totals"]
        await until(lambda: built_one(app), "built")
        return number

    async with cluster.app([Projection("totals", fold, key=CounterId)], fold_retries=0) as app:
        for by in range(1, 8):
            await app.send(Count(["a"], by))
        await until(lambda: caught_up(app), "caught up")
        number = await generation(2)
        with pytest.raises(
            InvalidMessage, match=r"1 parked keys that the one that serves does not have, or has only at a later"
        ):
            await app.projections.switch("totals")
        await app.projections.drop("totals")
        assert await generation(6) == number + 1
        assert await app.projections.switch("totals") == number + 1, "further than the one that served"
        await app.projections.drop("totals")
        assert await generation(2) == await app.projections.switch("totals", force=True)


async def test_another_generation_than_the_one_that_was_looked_at_is_not_switched_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.app([totals(1)]) as app:
        await happen(app, 5)
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        await app.projections.drop("totals")
        assert await app.projections.rebuild(["totals"]) == {"totals": 3}
        await until(lambda: built_one(app), "built")
        with pytest.raises(Conflict, match="Generation 3 of 'totals' is under way, not generation 2"):
            await app.projections.switch("totals", generation=2)
        assert await app.projections.switch("totals", generation=3) == 3
