"""Nodes with different code run side by side: each follows for what it can, and nothing waits for one that cannot."""

import pytest

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Counted, CounterId, Ended, Total, add_up
from tests.synchronization.cluster_helpers import Cluster, follows, happen, shares, totals
from twofold.app import App
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def all_stand_at_the_head(cluster: Cluster) -> bool:
    head = (await cluster.log.read(NO_EVENTS)).head
    return {at.progress.position for at in await cluster.read_store.checkpoints()} == {head}


@pytest.mark.parametrize("partitions", [1, 4])
async def test_two_versions_of_a_projection_are_each_followed_by_the_nodes_that_have_them(
    partitions: int, cluster: Cluster
) -> None:
    # Leases that last: here nobody dies, and a machine that is busy for half a second is no reason to move.
    old = cluster.app([totals(partitions)], lease_seconds=30)
    new = cluster.app([totals(partitions, version=2)], lease_seconds=30)
    async with old:
        await happen(old, 5)
        async with new:
            await until(lambda: len(follows(old)) == len(follows(new)) == partitions, "each follows for its own")
            await happen(old, 20, start=5)
            await until(lambda: all_stand_at_the_head(cluster), "both versions follow")
            assert {at.generation for at in await cluster.read_store.checkpoints()} == {1, 2}
            # Nothing moves to and fro either.
            workers = dict(shares(old)), dict(shares(new))
            await happen(new, 20, start=25)
            await until(lambda: all_stand_at_the_head(cluster), "both versions follow")
            assert (dict(shares(old)), dict(shares(new))) == workers


async def test_a_policy_that_only_one_node_has_is_run_by_that_one(cluster: Cluster) -> None:
    seen: list[int] = []

    async def mail(event: Counted) -> None:
        seen.append(event.by)

    # Names in either order: the plan goes by them.
    async with cluster.app([totals(1)], [Policy("a-mail", mail), Policy("z-mail", mail)]) as app, cluster.node():
        await happen(app, 10)
        await until(lambda: len(seen) == 20, "both have run")


async def test_a_request_is_dealt_with_by_nodes_of_the_version_it_was_asked_of(cluster: Cluster) -> None:
    def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 9:
            raise ArithmeticError("nine")
        return add_up(row, event, counter)

    old = cluster.app([totals(2)], fold_retries=0)
    new = cluster.app([Projection("totals", poisoned, key=CounterId, partitions=2, version=2)], fold_retries=0)
    async with old, new:
        await happen(old, 40)
        await until(lambda: all_stand_at_the_head(cluster), "both versions follow")
        asked = await parked(new)
        assert len(asked) > 3
        # As where the process that asks is not the one that follows: whoever looks first would answer.
        synchronization = new._running.synchronization  # type: ignore[union-attr]
        synchronization._pause = 0.3
        for key in asked[:4]:
            act = await new.projections.skip("totals", key)
            assert (act.version, act.done) == (2, True), act.outcome


async def parked(app: App) -> list[str]:
    return [each.key for follower in (await app.status()).followers for each in follower.parked]


async def test_what_served_a_version_that_nobody_follows_any_more_is_dropped_and_else_it_is_not(
    cluster: Cluster,
) -> None:
    old, new = cluster.app([totals(1)]), cluster.app([totals(1, version=2)])
    async with new:
        async with old:
            await happen(old, 5)
            await until(lambda: all_stand_at_the_head(cluster), "both versions follow")
            assert await new.projections.drop("totals") == []
        assert await new.projections.drop("totals") == [2 if generation(new) == 1 else 1]
        assert {at.generation for at in await cluster.read_store.checkpoints()} == {generation(new)}


def generation(app: App) -> int:
    (share,) = shares(app)
    return share.generation
