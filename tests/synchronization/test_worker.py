"""A worker takes more at a time where it is far behind, and reads on meanwhile; what it has read it uses once."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up
from tests.synchronization.cluster_helpers import Cluster, folded, happen, rows, totals
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS, EventQuery
from twofold.domain.projection import Projection
from twofold.write_store.port import PAGE_BYTES, Slice


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


class Pages:
    """What a follower read: where each page began, how many events it might have, and how many it had."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[int, int, int]] = []
        self.size = PAGE_BYTES
        self._read = cluster.log.read
        monkeypatch.setattr(cluster.log, "read", self.read)

    async def read(self, query: EventQuery, after: int = 0, limit: int | None = None, size: int = PAGE_BYTES) -> Slice:
        page = await self._read(query, after, limit, min(size, self.size))
        # Whoever measures the lag asks for one event.
        if limit is not None and limit > 1 and query.items:
            self.taken.append((after, limit, len(page.events)))
        return page

    @property
    def full(self) -> Sequence[tuple[int, int, int]]:
        """Those with anything in them."""
        return [each for each in self.taken if each[2]]


async def caught_up(app: App) -> bool:
    return all(each.lag == 0 for each in (await app.status()).followers)


async def filled(cluster: Cluster, events: int) -> None:
    """A log that a new projection is far behind."""
    async with cluster.app([totals(1)]) as app:
        await happen(app, events)
    cluster.views_apart()


async def test_pages_grow_while_there_is_more_and_each_is_read_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(cluster, 100)
    pages = Pages(cluster, monkeypatch)
    async with cluster.app([totals(1)], page_events=5, catch_up_page_events=30) as app:
        await until(lambda: caught_up(app), "caught up")
        assert pages.full == [(0, 5, 5), (5, 10, 10), (15, 20, 20), (35, 30, 30), (65, 30, 30), (95, 30, 5)]
        await happen(app, 1, start=100)
        await until(lambda: caught_up(app), "caught up")
        assert pages.full[-1] == (100, 5, 1), "near the head pages are small again"
        assert await rows(cluster) == await folded(cluster, app)


async def test_pages_that_end_by_bytes_are_followed_without_a_gap(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(cluster, 60)
    pages = Pages(cluster, monkeypatch)
    pages.size = 8 * max(len(each.payload) for each in (await cluster.log.read(ALL_EVENTS)).events)
    async with cluster.app([totals(1)], page_events=20, catch_up_page_events=50) as app:
        await until(lambda: caught_up(app), "caught up")
        assert {count for _, _, count in pages.full[:-1]} <= {8, 9, 10}
        assert [after for after, _, _ in pages.full[1:]] == [after + count for after, _, count in pages.full[:-1]]
        assert await rows(cluster) == await folded(cluster, app)


async def test_what_was_read_ahead_of_another_history_is_not_used(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(cluster, 40)
    pages = Pages(cluster, monkeypatch)
    save, identity = cluster.read_store.save, cluster.log.identity
    async with cluster.app([totals(1)], page_events=10, catch_up_page_events=10) as app:

        async def fails_over(change: Any) -> None:
            await save(change)
            if change.position == 20:
                # Found out by whoever else asked the log, while the page behind this one was read already.
                while (20, 10, 10) not in pages.taken:
                    await app.world.sleep(0)
                cluster.log.identity = msgspec.structs.replace(identity, epoch=identity.epoch + 1)

        monkeypatch.setattr(cluster.read_store, "save", fails_over)
        await until(lambda: (20, 10, 10) in pages.taken, "read ahead")
        await until(lambda: pages.taken.count((20, 10, 10)) == 2, "read anew")


async def test_a_halted_partition_goes_on_at_once_when_its_event_is_skipped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ArithmeticError("thirteen")
        return add_up(row, event, counter)

    monkeypatch.setattr("twofold.synchronization.worker.FIRST_PAUSE", 3_600.0)
    monkeypatch.setattr("twofold.synchronization.worker.LONGEST_PAUSE", 3_600.0)
    halting = Projection("totals", poisoned, key=CounterId, parks="partition")
    async with cluster.app([halting], fold_retries=-1) as app:
        await happen(app, 6)
        await app.send(Count(["bad"], 13))
        await until(lambda: halted(app), "halted")
        assert (await app.projections.skip("totals", "bad")).done
        await until(lambda: caught_up(app), "goes on, though its pause would last an hour")


async def halted(app: App) -> bool:
    return bool((await app.status()).followers[0].parked)
