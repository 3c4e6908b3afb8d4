"""Several nodes: each share has one follower, moves when a node comes, goes or falls silent, and no event is lost."""

import asyncio
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, Totals, add_up
from tests.synchronization.cluster_helpers import Cluster, folded, follows, happen, rows, shares, totals
from twofold.app import App
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.errors import Conflict, Unavailable
from twofold.read_store.partition import WHOLE
from twofold.read_store.partition import shares as parts
from twofold.synchronization.projector import Projector
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import RealWorld


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


ALL = {each.name for each in parts(4)}


async def caught_up(cluster: Cluster) -> bool:
    head = (await cluster.log.read(NO_EVENTS)).head
    at = [each for each in await cluster.read_store.checkpoints()]
    return bool(at) and all(each.progress.position == head for each in at)


async def agrees(cluster: Cluster, app: App) -> None:
    await until(lambda: caught_up(cluster), "caught up")
    assert await rows(cluster) == await folded(cluster, app)


async def test_two_nodes_share_the_partitions_and_a_third_gets_its_part(cluster: Cluster) -> None:
    async with cluster.node() as first:
        assert follows(first) == ALL
        await happen(first, 30)
        async with cluster.node() as second:
            await until(lambda: len(follows(first)) == len(follows(second)) == 2, "shared out")
            assert follows(first) | follows(second) == ALL
            await happen(second, 30)
            async with cluster.node() as third:
                await until(lambda: follows(third), "a part for the third")
                await until(lambda: follows(first) | follows(second) | follows(third) == ALL, "all followed")
                await happen(third, 30)
                await agrees(cluster, third)
            await until(lambda: follows(first) | follows(second) == ALL, "taken back")
        await until(lambda: follows(first) == ALL, "alone again")
        await happen(first, 10)
        await agrees(cluster, first)
    assert _each_in_order(cluster)


async def test_nodes_with_read_stores_of_their_own_follow_for_all_of_them_and_share_policies_only(
    cluster: Cluster,
) -> None:
    reacted: list[int] = []

    async def react(event: Counted, recorded: RecordedEvent) -> None:
        reacted.append(recorded.position)

    policies = [Policy("watch", react)]
    async with cluster.node(policies=policies) as first:
        here = cluster.read_store
        there = cluster.views_apart()
        async with cluster.node(policies=policies) as second:
            await happen(first, 30)
            for read_store in (here, there):
                cluster.read_store = read_store
                await agrees(cluster, first)
            assert follows(first) | {WHOLE.name} > ALL
            assert follows(second) | {WHOLE.name} > ALL
            policy = WorkUnit("policy", "watch")
            # Its lease may be on its way from one to the other.
            await until(lambda: [policy in shares(app) for app in (first, second)].count(True) == 1, "one runs it")
            await until(lambda: len(reacted) == 30, "reacted")
            assert reacted == list(range(1, 31))


async def test_what_a_node_that_leaves_had_is_taken_at_once(cluster: Cluster) -> None:
    async with cluster.node(lease_seconds=600.0) as first:
        async with cluster.node(lease_seconds=600.0) as second:
            first._running.synchronization.wake.fire()  # type: ignore[union-attr]
            await until(lambda: len(follows(second)) == 2, "shared out")
        first._running.synchronization.wake.fire()  # type: ignore[union-attr]
        await until(lambda: follows(first) == ALL, "taken over long before a lease ends")


async def test_what_a_silent_node_had_is_taken_when_its_lease_ends_and_its_late_save_is_refused(
    cluster: Cluster,
) -> None:
    silent = cluster.app()
    await silent.start()
    synchronization = silent._running.synchronization  # type: ignore[union-attr]
    await happen(silent, 20)
    await until(lambda: caught_up(cluster), "caught up")
    # It falls silent: neither looks nor shows life, and its workers hang in the middle of a page.
    synchronization._task.cancel()  # type: ignore[union-attr]
    synchronization.membership._heartbeats.cancel()  # type: ignore[union-attr]
    hanging: list[Any] = []
    for worker in silent._running.synchronization.workers:  # type: ignore[union-attr]
        follower: Any = worker.follower
        worker._task.cancel()  # type: ignore[union-attr]
        hanging.append(follower)
    async with cluster.node() as other:
        await until(lambda: follows(other) == ALL, "taken over")
        await happen(other, 20, start=20)
        await until(lambda: caught_up(cluster), "caught up")
        before = await rows(cluster)
        for follower in hanging:
            page = await cluster.log.read(follower.query, 20)
            with pytest.raises(Conflict):
                await follower.apply(page, 20)
        assert await rows(cluster) == before == await folded(cluster, other)
        # It wakes, finds that others follow for what it had, and is given its part again.
        synchronization._task = asyncio.create_task(synchronization._run())
        synchronization.membership._heartbeats = asyncio.create_task(synchronization.membership.heartbeat_loop())
        await until(lambda: len(follows(other)) == len(follows(silent)) == 2, "shared out again")
        await happen(silent, 20, start=40)
        await agrees(cluster, other)
        await silent.stop()


async def test_a_node_that_was_taken_for_dead_and_buried_begins_anew_as_another(cluster: Cluster) -> None:
    silent = cluster.app()
    await silent.start()
    synchronization = silent._running.synchronization  # type: ignore[union-attr]
    synchronization._task.cancel()  # type: ignore[union-attr]
    synchronization.membership._heartbeats.cancel()  # type: ignore[union-attr]
    async with cluster.node() as other:
        await until(lambda: synchronization.membership.node not in other._running.synchronization.state.nodes, "buried")  # type: ignore[union-attr]
        old = synchronization.membership.node
        synchronization._task = asyncio.create_task(synchronization._run())
        synchronization.membership._heartbeats = asyncio.create_task(synchronization.membership.heartbeat_loop())
        await until(lambda: len(follows(other)) == len(follows(silent)) == 2, "shared out again")
        assert synchronization.membership.node != old
        await happen(silent, 20)
        await agrees(cluster, other)
        await silent.stop()


async def test_a_node_that_cannot_show_life_stops_before_others_take_over(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.node() as cut_off, cluster.node() as other:
        await until(lambda: len(follows(cut_off)) == len(follows(other)) == 2, "shared out")
        taken: list[bool] = []

        async def fails(*_: Any) -> bool:
            raise Conflict("the network is away")

        running = cut_off._running
        assert running is not None
        monkeypatch.setattr(running.synchronization.membership, "heartbeat", fails)
        claim = other._running.synchronization.leases.claim  # type: ignore[union-attr]

        async def watched(todo: Any, *rest: Any) -> Any:
            if todo:
                taken.append(running.synchronization.membership.may_follow())
            return await claim(todo, *rest)

        monkeypatch.setattr(other._running.synchronization.leases, "claim", watched)  # type: ignore[union-attr]
        await until(lambda: follows(other) == ALL, "taken over")
        # What it still does then is a save that has begun, which the other node's lease refuses.
        assert taken and not any(taken)
        await until(lambda: not follows(cut_off), "stopped")


async def test_a_node_that_could_not_show_life_once_for_whatever_reason_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.node() as app:
        running = app._running
        assert running is not None
        membership = running.synchronization.membership
        beat, failures = membership.heartbeat, iter([RuntimeError("nobody expected this"), asyncio.CancelledError()])
        beats = 0

        async def fails_at_first(began: float) -> None:
            nonlocal beats
            failure = next(failures, None)
            if failure is not None:
                raise failure
            await beat(began)
            beats += 1

        monkeypatch.setattr(membership, "heartbeat", fails_at_first)

        async def shown() -> bool:
            return beats > 5

        await until(shown, "life is shown again")
        assert membership.may_follow()
        await until(lambda: follows(app) == ALL, "followed")
        await happen(app, 10)
        await agrees(cluster, app)


async def test_a_partition_is_split_and_merged_while_events_come_and_order_is_kept(cluster: Cluster) -> None:
    app = cluster.app([totals(partitions=1)])
    async with app:
        stop = asyncio.Event()

        async def writes() -> None:
            n = 0
            while not stop.is_set():
                await happen(app, 5, start=n)
                n += 5

        writing = asyncio.create_task(writes())
        assert (await app.projections.split("totals")).done
        halves = [each.name for each in WHOLE.halves()]
        await until(lambda: follows(app) == set(halves), "split")
        assert (await app.projections.split("totals", halves[0], actor="ann")).done
        await until(lambda: len(follows(app)) == 3, "split again")
        async with cluster.node(projections=[totals(partitions=1)]) as other:
            await until(lambda: follows(other), "another node has a part")
            for left in (2, 1):
                act = await app.projections.merge("totals", min(follows(app) | follows(other), key=_begin))
                assert act.done, act.outcome
                await until(lambda n=left: len(follows(app) | follows(other)) == n, "merged")
            await until(lambda: follows(app) | follows(other) == {WHOLE.name}, "whole")
            stop.set()
            await writing
            await agrees(cluster, app)
        acts = [(each.what, each.actor) for each in (await app.projections.actions("totals")).values()]
        assert acts == [("split", None), ("split", "ann"), ("merge", None), ("merge", None)]
    assert _each_in_order(cluster)


async def test_what_cannot_be_split_or_merged_is_refused_in_a_sentence(cluster: Cluster) -> None:
    async with cluster.node() as app:
        act = await app.projections.merge("totals", parts(4)[-1].name)
        assert (act.done, act.outcome) == (False, "There is no partition after this one.")


async def test_a_node_is_told_by_which_node_each_partition_is_followed(cluster: Cluster) -> None:
    async with cluster.node() as first, cluster.node() as second:
        await until(lambda: len(follows(first)) == len(follows(second)) == 2, "shared out")
        await until(lambda: all_told(first), "reported")
        (totals_there,) = (await first.status()).followers
        assert {each.owner for each in totals_there.partitions} == {RealWorld().place}
        assert [each.state for each in totals_there.partitions].count("on-another-node") == 2
        assert (await first.status()).health.problems == ()


async def all_told(app: App) -> bool:
    (only,) = (await app.status()).followers
    return all(each.owner is not None for each in only.partitions)


async def test_a_query_waits_for_the_slowest_partition(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster.node() as app:
        slow = next(worker for share, worker in shares(app).items() if share.partition == parts(4)[2])
        go_on, held = asyncio.Event(), slow._held
        monkeypatch.setattr(slow, "_held", lambda: go_on.is_set() and held())
        await happen(app, 20)
        token = app.token((await app.log()).head)
        asking = asyncio.create_task(app.ask(Totals(), position=token))
        await until(lambda: len([s for s in cluster.read_store.saves if s.position == 20]) >= 3, "the others are there")
        assert not asking.done()
        go_on.set()
        assert {row.counter for row in (await asking).value} == set(await folded(cluster, app))


def _begin(name: str) -> int:
    return int(name.partition("-")[0])


def _each_in_order(cluster: Cluster) -> bool:
    """Whether each key's rows were saved in the order of their events, each event once."""
    last: dict[str, int] = {}
    for change in cluster.read_store.saves:
        for key, kept in change.rows.items():
            if kept.position <= last.get(key, 0):
                return False
            last[key] = kept.position
    return True


async def test_what_was_done_is_on_record_although_the_asker_gave_up_or_the_record_was_lost(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.app([totals(1)]) as app:
        await happen(app, 5)
        await until(lambda: caught_up(cluster), "caught up")
        model: Any = cluster.read_store._tables["totals", 1]
        key, kept = next(iter(model.rows.items()))
        model.rows[key] = type(kept)(type(kept.row)(key, 666, 6), kept.position, kept.repair)
        save = cluster.read_store.save

        async def slow(change: Any) -> None:
            if change.rows:
                await asyncio.sleep(0.3)
            await save(change)

        monkeypatch.setattr(cluster.read_store, "save", slow)
        with pytest.raises(Unavailable, match="No node that follows"):
            await app.projections.repair("totals", key, timeout=0.1)
        await until(lambda: recorded(app, "repair"), "on record")
        control: Any = app._running.synchronization.cluster  # type: ignore[union-attr]
        write, lost = control.write, iter([True])

        async def loses(*writes: Any) -> bool:
            if any(each.space == "acts" for each in writes) and next(lost, False):
                raise Unavailable("away for a moment")
            return bool(await write(*writes))

        monkeypatch.setattr(control, "write", loses)
        act = await app.projections.split("totals")
        assert (act.done, next(lost, None)) == (True, None)
        await until(lambda: follows(app) == {"0-2048", "2048-4096"}, "parted once")


async def recorded(app: App, what: str) -> bool:
    return any(each.what == what and each.done for each in (await app.projections.actions()).values())


async def test_partitions_that_cannot_be_brought_to_one_position_are_not_merged_and_it_is_said_why(
    cluster: Cluster,
) -> None:
    def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ArithmeticError("thirteen")
        return add_up(row, event, counter)

    halting = Projection("totals", poisoned, key=CounterId, parks="partition", partitions=2)
    async with cluster.app([halting], fold_retries=0) as app:
        await happen(app, 10)
        await app.send(Count(["bad"], 13))
        await happen(app, 10)
        await until(lambda: one_stands(cluster), "one stands, the other goes on")
        act = await app.projections.merge("totals", "0-2048")
        assert not act.done
        assert "thirteen" in act.outcome
        await until(lambda: follows(app) == {"0-2048", "2048-4096"}, "both go on as they were")


async def one_stands(cluster: Cluster) -> bool:
    return sorted(each.progress.position for each in await cluster.read_store.checkpoints()) == [10, 21]


async def test_a_full_queue_of_commands_refuses_commands_and_no_sign_of_life(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, begun, go_on = cluster.log.append, asyncio.Event(), asyncio.Event()

    async def held(batch: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await append(batch)

    # So long a lease that it shows no life by itself: nothing but what this test does is in the queue.
    async with cluster.app([totals(1)], queue_commands=5, batch_commands=1, lease_seconds=3_600) as app:
        await until(lambda: follows(app) == {WHOLE.name}, "followed")
        running: Any = app._running
        membership, queue = running.synchronization.membership, running.batcher._queue
        seen = membership._version
        monkeypatch.setattr(cluster.log, "append", held)
        sent = [asyncio.create_task(app.send(Count(["first"])))]
        await begun.wait()
        sent += [asyncio.create_task(app.send(Count([f"c{n}"]))) for n in range(20)]
        await until(lambda: sum(each.done() for each in sent) == 15, "what has no room is refused")
        beat = asyncio.create_task(membership.heartbeat(0.0))
        await until(lambda: beat.done() or len(queue) > 5, "waits behind the commands, or was refused")
        go_on.set()
        await beat
        assert membership._version == seen + 1
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert sum(isinstance(each, Unavailable) for each in outcomes) == 15


async def test_a_follower_that_cannot_begin_keeps_no_other_from_beginning(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.app([totals(4)]) as app:
        await until(lambda: follows(app) == ALL, "followed")
        first, opens = min(ALL), Projector.open

        async def broken(self: Projector) -> int:
            if self._partition.name == first:
                raise RuntimeError("nobody expected this")
            return await opens(self)

        running: Any = app._running
        with monkeypatch.context() as patched:
            patched.setattr(Projector, "open", broken)
            await running.synchronization.supervisor.stop()
            await until(lambda: follows(app) == ALL - {first}, "the others have begun")
            await until(lambda: running.synchronization.problem, "it is said")
        await until(lambda: follows(app) == ALL, "this one, too, once it can")
