"""Operators pause and resume projections and policies: one that is paused keeps its place, and holds up no other."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, folded, settled, until
from tests.sample_domains.counters import Count, Counted, TotalOf, Totals, counters
from tests.servers.postgres import Postgres, fresh_schema
from tests.synchronization.cluster_helpers import Cluster, counting_app, happen, rows, shares, totals
from tests.synchronization.cluster_helpers import folded as folded_log
from tests.synchronization.policy_helpers import MARK, answers, passes, remind, with_policy
from tests.synchronization.storm_helpers import follower, is_paused
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.policy import Policy
from twofold.errors import InvalidMessage, Unavailable, UnknownMessage
from twofold.testing import FrozenWorld


async def watch(event: Counted) -> None:
    return None


def watched() -> Any:
    return counters(policies=[Policy("watch", watch)])


async def codes(app: App) -> list[tuple[str, str]]:
    return [(each.subject, each.code) for each in (await app.status()).health.problems]


async def test_a_paused_projection_keeps_its_place_through_a_restart_and_catches_up_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    async with app_in(tmp_path, watched(), stall_seconds=0.05) as app:
        receipt = await app.send(Count(["a"], 1))
        await app.ask(TotalOf("a"), position=receipt.token)
        action = await app.projections.pause("totals", "The disk is being moved.", actor="ann")
        assert (action.what, action.done, action.outcome) == ("pause", True, "It is paused: The disk is being moved.")
        receipt = await app.send(Count(["a"], 2))

        async def others_went_on() -> bool:
            return (await follower(app, "watch")).lag == 0

        await until(others_went_on, "the policy has gone on")
        await asyncio.sleep(0.1)
        assert await codes(app) == [("totals", "paused")]
    async with app_in(tmp_path, watched(), stall_seconds=0.05) as app:
        totals = await follower(app, "totals")
        assert (totals.position, totals.lag, totals.state, totals.partitions[0].state) == (1, 1, "paused", "paused")
        status = await app.status()
        assert (status.health.level, status.health.query_side, status.health.command_side) == (
            "degraded",
            "degraded",
            "ready",
        )
        (problem,) = status.health.problems
        assert "at position 1: It is paused by ann: The disk is being moved. Resume it" in problem.message
        assert (await app.ask(TotalOf("a"))).value.total == 1
        await app.projections.resume("totals", actor="ben")
        assert (await app.ask(TotalOf("a"), position=receipt.token)).value.total == 3
        assert await settled(app) == await folded(app)
        assert await codes(app) == []
        recorded = (await app.projections.actions("totals")).values()
        assert [(action.what, action.actor) for action in recorded] == [("pause", "ann"), ("resume", "ben")]


async def test_nothing_waits_for_what_is_paused(tmp_path: Path) -> None:
    async with app_in(tmp_path, watched(), wait_seconds=600.0) as app:
        await app.projections.pause("totals", actor="ann")
        async with asyncio.timeout(60):
            receipt = await app.send(Count(["a"]), wait_for=["totals", "watch"])
            with pytest.raises(Unavailable, match=r"1 events behind.* It is paused by an operator\.") as refused:
                await app.ask(TotalOf("a"), position=receipt.token)
            with pytest.raises(Unavailable, match=r"It is paused by ann\."):
                await app.projections.wait(["totals"], receipt.position, timeout=600.0)
        assert refused.value.lag == 1
        assert "totals" in receipt.late
        assert (await app.ask(Totals())).position == 0


async def test_a_paused_policy_sends_nothing_that_is_due_until_it_is_resumed(tmp_path: Path) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await app.send(Count(["a"], 90))
        await passes(world, app, 1.0)
        pausing = asyncio.create_task(app.projections.pause("answers"))
        await passes(world, app, 2.0)
        await pausing
        await app.send(Count(["a"], 91))
        await passes(world, app, 60)
        assert await answers(app) == []
    async with app_in(tmp_path, with_policy(remind), world=world, poll_seconds=900) as app:
        await passes(world, app, 60)
        assert await answers(app) == []
        resuming = asyncio.create_task(app.projections.resume("answers"))
        await passes(world, app, 2.0)
        await resuming
        assert sorted(await answers(app)) == [MARK + 90, MARK + 91]


async def test_what_is_paused_twice_stays_as_it_was_and_what_is_not_paused_can_be_resumed(tmp_path: Path) -> None:
    async with app_in(tmp_path, watched()) as app:
        assert (await app.projections.resume("watch")).outcome == "It was not paused."
        await app.projections.pause("watch", "first", actor="ann")
        again = await app.projections.pause("watch", "second", actor="ben")
        assert again.outcome.startswith("It was paused already. It is paused by ann: first.")
        with pytest.raises(InvalidMessage, match="Resume it without `skip`"):
            await app.projections.resume("watch", skip=1)
        assert await is_paused(app, "watch")
        for reason in ("x" * 501, "\0", "\ud800"):
            with pytest.raises(InvalidMessage) as refused:
                await app.projections.pause("totals", reason)
            assert refused.value.field == "reason"
        with pytest.raises(UnknownMessage, match="There are: totals, watch"):
            await app.projections.pause("nobody")


async def test_what_the_node_that_follows_would_do_is_refused_while_it_is_paused(tmp_path: Path) -> None:
    async with app_in(tmp_path, watched()) as app:
        await app.projections.pause("totals")
        do = app.projections
        for refused in (do.retry("totals", "a"), do.skip("totals", "a"), do.repair("totals", "a"), do.split("totals")):
            with pytest.raises(InvalidMessage, match=r"'totals' is paused\. Resume it first"):
                await refused
        with pytest.raises(InvalidMessage, match="'totals' is paused, and so are its builds"):
            await app.projections.rebuild(["totals"])


async def test_a_build_waits_with_its_projection_and_goes_on_when_that_is_resumed(tmp_path: Path) -> None:
    async with app_in(tmp_path, watched()) as app:
        for by in range(1, 5):
            await app.send(Count(["a"], by))
        await app.projections.rebuild(["totals"])
        await app.projections.pause("totals", actor="ann")
        await app.send(Count(["a"], 5))

        async def begun() -> bool:
            return bool((await app.status()).builds)

        await until(begun, "the build has a checkpoint")
        (build,) = (await app.status()).builds
        assert build.lag >= 1
        assert build.error == "It is paused by ann. Resume it to let it go on."
        await app.projections.resume("totals")

        async def built() -> bool:
            (build,) = (await app.status()).builds
            return build.lag == 0

        await until(built, "built")
        await app.projections.switch("totals")
        assert await settled(app) == await folded(app)


async def is_not_paused(app: App) -> bool:
    return not await is_paused(app, "totals")


async def on_two_nodes(first: App, second: App) -> None:
    """What one node pauses the other one does not follow either, and what it resumes is followed again."""
    await happen(first, 10)
    await until(lambda: shares(first) and shares(second), "shared out")
    await first.projections.pause("totals", actor="ann")
    await until(lambda: not [unit for app in (first, second) for unit in shares(app)], "stopped on both")
    await happen(second, 10, start=10)
    for app in (first, second):
        await until(lambda app=app: is_paused(app, "totals"), "known to both")
    before = (await follower(second, "totals")).position
    await asyncio.sleep(0.2)
    assert (await follower(first, "totals")).position == before < (await first.log()).head
    await second.projections.resume("totals")
    await until(lambda: is_not_paused(first), "resumed on both")
    head = (await first.log()).head
    answer = await first.ask(Totals(), position=first.token(head), timeout=30)
    assert {row.counter: row for row in answer.value} == await folded(first)


async def test_two_nodes_on_postgresql_honour_a_pause_also_after_a_restart(postgres_newest: Postgres) -> None:
    write_store = await fresh_log(postgres_newest.dsn)
    stores = {"write_store": write_store, "read_store": f"{postgres_newest.dsn}?schema={fresh_schema()}"}

    def node() -> App:
        return counting_app([totals()], **stores, lease_seconds=2.0)

    async with node() as first, node() as second:
        await on_two_nodes(first, second)
        await second.projections.pause("totals")
        await until(lambda: not shares(first), "stopped")
    async with node() as third:
        await happen(third, 5)
        assert await is_paused(third, "totals")
        assert shares(third) == {}
        await third.projections.resume("totals")
        head = (await third.log()).head
        answer = await third.ask(Totals(), position=third.token(head), timeout=30)
        assert {row.counter: row for row in answer.value} == await folded(third)


@pytest.mark.parametrize("seed", range(3))
async def test_whenever_it_is_paused_and_resumed_on_whatever_node_every_event_is_folded_once(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random, cluster = Random(seed), Cluster(monkeypatch)
    async with cluster.node() as first, cluster.node() as second:
        nodes, start = [first, second], 0
        for _ in range(12):
            await happen(random.choice(nodes), 5, start=start)
            start += 5
            if random.random() < 0.5:
                await random.choice(nodes).projections.pause("totals")
                await until(lambda: not shares(first) and not shares(second), "stopped on both")
                saves = len(cluster.read_store.saves)
                await happen(random.choice(nodes), 5, start=start)
                start += 5
                assert len(cluster.read_store.saves) == saves, "what is paused saves nothing"
            else:
                await random.choice(nodes).projections.resume("totals")
        await first.projections.resume("totals")

        async def caught_up() -> bool:
            head = (await cluster.log.read(NO_EVENTS)).head
            return all(each.progress.position == head for each in await cluster.read_store.checkpoints())

        await until(caught_up, "caught up")
        assert await rows(cluster) == await folded_log(cluster, first)


async def test_a_policy_that_answers_later_is_paused_with_what_is_due_on_all_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, sent = Cluster(monkeypatch), []

    async def later(event: Counted) -> Any:
        sent.append(event.by)

    async with cluster.node(policies=[Policy("later", later)]) as first:
        async with cluster.node(policies=[Policy("later", later)]) as second:
            await second.projections.pause("later")
            await until(lambda: all(unit.name != "later" for app in (first, second) for unit in shares(app)), "stopped")
            await happen(first, 3)
            await until(lambda: follower_is_behind(second, 3), "behind")
            assert sent == []
        await first.projections.resume("later")
        await until(lambda: len(sent) == 3, "answered")


async def follower_is_behind(app: App, events: int) -> bool:
    return (await follower(app, "later")).lag == events


async def test_a_policy_is_paused_also_while_the_read_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path, watched()) as app:
        running = app._running
        assert running is not None

        async def away() -> Any:
            raise Unavailable("The read store is away.")

        monkeypatch.setattr(running.read_store, "checkpoints", away)
        await app.projections.pause("watch", timeout=30.0)
        assert [unit.name for unit in shares(app)] == ["totals"]
        monkeypatch.undo()
        await app.projections.resume("watch")
        await until(lambda: sorted(unit.name for unit in shares(app)) == ["totals", "watch"], "followed again")


async def test_a_projection_is_paused_in_one_read_store_and_a_policy_for_all_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, policies = Cluster(monkeypatch), [Policy("watch", watch)]
    async with cluster.node(policies=policies) as first:
        cluster.views_apart()
        async with cluster.node(policies=policies) as second:
            await first.projections.pause("totals")
            await second.projections.pause("watch")
            await until(lambda: not shares(first), "nothing is left to follow")
            assert {unit.name for unit in shares(second)} == {"totals"}
            await first.projections.resume("totals")
            await first.projections.resume("watch")
            await until(lambda: {unit.name for app in (first, second) for unit in shares(app)} >= {"watch"}, "resumed")
