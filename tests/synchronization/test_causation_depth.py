"""Policies that answer one another without end are stopped: one is paused before the event that is too deep."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, Ignore, Ignored
from tests.servers.postgres import Postgres, fresh_schema
from tests.synchronization.cluster_helpers import LEASE, Cluster, shares
from tests.synchronization.storm_helpers import (
    LIMIT,
    depths,
    follower,
    idle,
    is_paused,
    pause_of,
    ping,
    policies,
    pong,
    recorded,
    storm,
)
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.domain.policy import Later, causation_depth
from twofold.errors import InvalidMessage, Unavailable
from twofold.settings import Settings
from twofold.testing import FrozenWorld
from twofold.write_store.port import Append, Outcome


async def test_two_policies_that_answer_each_other_are_stopped_and_the_events_that_repeat_are_named(
    tmp_path: Path,
) -> None:
    async with storm(tmp_path) as app:
        await app.send(Count(["a"]))
        pause = await pause_of(app, "pong")
        assert await depths(app) == list(range(LIMIT + 1))
        status = await app.status()
        problem = next(problem for problem in status.health.problems if problem.subject == "pong")
        assert (problem.code, problem.level, problem.side) == ("paused", "degraded", "command")
        assert status.health.level == "degraded"
        assert pause.position == status.head == LIMIT + 1
        assert pause.actor is None
        for named in ("counted → ignored → counted", "Ignore", "depth 11", "max_causation_depth is 10", "`skip` 11"):
            assert named in problem.message
        (action,) = (await app.projections.actions("pong")).values()
        assert (action.what, action.actor, action.done, action.position) == ("pause", None, True, 11)
        paused = await follower(app, "pong")
        assert (paused.position, paused.state, paused.parked) == (LIMIT, "paused", ())
        assert (await follower(app, "ping")).lag == 0


async def test_a_policy_that_has_paused_itself_stays_paused_through_a_restart_and_answers_nothing(
    tmp_path: Path,
) -> None:
    async with storm(tmp_path) as app:
        await app.send(Count(["a"]))
        await pause_of(app, "pong")
    async with storm(tmp_path) as app:
        assert await is_paused(app, "pong")
        await app.send(Count(["b"]))
        await idle(app, "ping", "totals")
        assert [event.tags for event in await recorded(app)][LIMIT + 1 :] == [("counter:b",)]
        assert (await follower(app, "pong")).lag == 2


async def test_a_policy_that_is_resumed_without_the_event_goes_on_behind_it(tmp_path: Path) -> None:
    async with storm(tmp_path) as app:
        await app.send(Count(["a"]))
        pause = await pause_of(app, "pong")
        for wrong in (1, pause.position + 1):
            with pytest.raises(InvalidMessage, match=f"It is paused before the event at {pause.position}"):
                await app.projections.resume("pong", skip=wrong)
        action = await app.projections.resume("pong", skip=pause.position, actor="ann")
        assert (action.done, action.position, action.actor) == (True, pause.position, "ann")
        await idle(app, "ping", "pong")
        assert await depths(app) == list(range(LIMIT + 1))
        assert (await app.status()).health.problems == ()
        await app.send(Count(["b"]))
        assert (await pause_of(app, "pong")).position == 2 * (LIMIT + 1)


async def test_a_policy_that_is_resumed_as_it_was_pauses_itself_again_before_the_same_event(tmp_path: Path) -> None:
    async with storm(tmp_path) as app:
        await app.send(Count(["a"]))
        before = await pause_of(app, "pong")
        await app.projections.resume("pong")

        async def again() -> bool:
            pause = (await follower(app, "pong")).pause
            return pause is not None and pause.since > before.since

        await until(again, "paused again")
        assert (await pause_of(app, "pong")).position == before.position
        assert await depths(app) == list(range(LIMIT + 1))
        assert [action.what for action in (await app.projections.actions("pong")).values()] == [
            "pause",
            "resume",
            "pause",
        ]


async def test_a_policy_that_was_repaired_or_may_go_deeper_goes_on_with_the_event(tmp_path: Path) -> None:
    async def repaired(event: Counted) -> Ignore | None:
        return Ignore(event.counters) if event.by > 1 else None

    repaired.__name__ = "pong"
    async with storm(tmp_path) as app:
        await app.send(Count(["a"]))
        await pause_of(app, "pong")
    async with storm(tmp_path, max_causation_depth=2 * LIMIT) as app:
        await app.projections.resume("pong")
        assert (await pause_of(app, "pong")).position == 2 * LIMIT + 1
        assert await depths(app) == list(range(2 * LIMIT + 1))
    async with storm(tmp_path, ping, repaired) as app:
        await app.projections.resume("pong")
        await idle(app, "ping", "pong")
        await app.send(Count(["b"], 2))
        await idle(app, "ping", "pong")
        assert await depths(app) == [*range(2 * LIMIT + 1), 0, 1, 2]


async def test_of_several_answers_none_is_sent_if_one_is_too_deep_and_those_before_are_kept(tmp_path: Path) -> None:
    sent: list[int] = []

    async def both(event: Counted) -> list[Any]:
        sent.append(event.by)
        # The second one waits, and is less deep.
        return [Count(["a"], event.by + 1), Later(Ignore(["a"]), timedelta(seconds=900))]

    async with storm(tmp_path, both, max_causation_depth=3, page_events=100) as app:
        await app.send(Count(["a"]))
        pause = await pause_of(app, "both")
        assert (pause.position, sorted(set(sent))) == (4, [1, 2, 3, 4])
        running = app._running
        assert running is not None
        due = [key for key in await running.write_store.rows("policy:both") if key.startswith("due:")]
        assert len(due) == 3
        assert await depths(app) == [0, 1, 2, 3]


async def test_a_parked_event_whose_answer_is_too_deep_stays_parked(tmp_path: Path) -> None:
    fails = [True]

    async def echo(event: Counted) -> Count:
        if event.by == 3 and fails:
            raise ValueError("nobody knows the number")
        return Count(event.counters, event.by + 1)

    async with storm(tmp_path, echo, max_causation_depth=2, fold_retries=0) as app:
        await app.send(Count(["a"], 1))
        await until(lambda: is_parked(app, "echo"), "parked")
        fails.clear()
        action = await app.projections.retry("echo", "all")
        assert action.outcome.startswith("It still fails: TooDeep: The event counted at 3 would be answered with Count")
        assert await is_parked(app, "echo")
        assert await depths(app) == [0, 1, 2]


async def is_parked(app: App, name: str) -> bool:
    return bool((await follower(app, name)).parked)


async def test_a_storm_over_two_nodes_on_postgresql_is_stopped_and_resumed_from_either(
    postgres_newest: Postgres,
) -> None:
    write_store = await fresh_log(postgres_newest.dsn)
    stores = {"write_store": write_store, "read_store": f"{postgres_newest.dsn}?schema={fresh_schema()}"}
    chosen = Settings(max_causation_depth=LIMIT, poll_seconds=0.02, lease_seconds=2.0)

    def node() -> App:
        # Two nodes divide two policies. Of three work units, one node might get both policies.
        return App(policies(ping, pong, alone=True), **stores, settings=chosen)

    async with node() as first, node() as second:
        nodes = (first, second)

        async def divided() -> bool:
            of_each = [{unit.name for unit in shares(app)} & {"ping", "pong"} for app in nodes]
            return sorted(map(sorted, of_each)) == [["ping"], ["pong"]]

        await until(divided, "each node runs one of the policies")
        await first.send(Count(["a"]))
        for app in nodes:
            assert (await pause_of(app, "pong")).position == LIMIT + 1
        assert await depths(first) == list(range(LIMIT + 1))
        await second.projections.resume("pong", skip=LIMIT + 1)
        for app in nodes:
            await idle(app, "ping", "pong")
        assert await depths(second) == list(range(LIMIT + 1))


async def test_a_pause_that_cannot_be_stored_is_tried_again_and_nothing_is_answered_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, failures = Cluster(monkeypatch), [4]
    append = cluster.log.append

    async def away(batch: Sequence[Append]) -> list[Outcome]:
        pauses = any(row.key == "pause::pong" for each in batch for row in each.rows)
        if pauses and failures[0]:
            failures[0] -= 1
            raise Unavailable("The log is away.")
        return await append(batch)

    monkeypatch.setattr(cluster.log, "append", away)
    chosen = Settings(max_causation_depth=LIMIT, poll_seconds=0.02, lease_seconds=LEASE)
    async with App(policies(ping, pong), settings=chosen) as app:
        await app.send(Count(["a"]))
        await pause_of(app, "pong")
        assert failures == [0]
        assert await depths(app) == list(range(LIMIT + 1))
        assert await pauses_on_record(app) == 1


async def pauses_on_record(app: App) -> int:
    return len([action for action in (await app.projections.actions("pong")).values() if action.what == "pause"])


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_is_stopped_once_while_nodes_come_and_go(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    random, cluster, limit = Random(seed), Cluster(monkeypatch), 60
    chosen = Settings(max_causation_depth=limit, poll_seconds=0.01, lease_seconds=LEASE)
    async with AsyncExitStack() as running:
        nodes = [await running.enter_async_context(App(policies(ping, pong), settings=chosen))]
        await nodes[0].send(Count(["a"]))
        while not await is_paused(nodes[0], "pong"):
            if len(nodes) < 3:
                nodes.append(await running.enter_async_context(App(policies(ping, pong), settings=chosen)))
            else:
                # In the middle of whatever it does.
                await nodes.pop(random.randrange(3)).stop()
            for _ in range(random.randrange(20)):
                await asyncio.sleep(0)
        assert await depths(nodes[0]) == list(range(limit + 1))
        assert await pauses_on_record(nodes[0]) == 1
    assert [key for key in await cluster.log.rows("synchronization") if key.startswith("pause:")] == ["pause::pong"]


@pytest.mark.parametrize(("seconds", "stops"), [(1.0, False), (5.0, False), (0.9, True), (0.0, True)])
async def test_a_timer_that_sets_itself_again_goes_on_unless_it_fires_more_than_once_a_second(
    seconds: float, stops: bool
) -> None:
    async def tick(event: Counted) -> Later:
        return Later(Count(event.counters), timedelta(seconds=seconds))

    world = FrozenWorld()
    app = App(
        policies(tick),
        write_store="memory:",
        read_store="memory:",
        world=world,
        settings=Settings(max_causation_depth=5, poll_seconds=900),
    )
    async with app:
        await app.send(Count(["a"]))
        for _ in range(40):
            await world.advance(max(seconds, 0.2))
            await world.settle()
        assert await is_paused(app, "tick") == stops
        assert (len(await recorded(app)) > 20) != stops
        assert max(await depths(app)) <= 5


@pytest.mark.parametrize(
    ("after", "event_depth", "depth"),
    [(None, 0, 1), (None, 7, 8), (0.5, 7, 8), (1.0, 7, 7), (3.9, 7, 5), (60.0, 7, 0), (-60.0, 7, 8)],
)
def test_each_second_that_a_command_waits_takes_one_off_its_depth(
    after: float | None, event_depth: int, depth: int
) -> None:
    command = Count(["a"])
    answer = command if after is None else Later(command, timedelta(seconds=after))
    assert causation_depth(answer, event_depth) == depth


Answers = dict[tuple[type, int], list[tuple[type, int]]]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    answers=st.dictionaries(
        st.tuples(st.sampled_from([Counted, Ignored]), st.integers(0, 3)),
        st.lists(st.tuples(st.sampled_from([Count, Ignore]), st.integers(0, 3)), max_size=2),
        max_size=8,
    ),
    starts=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    limit=st.integers(1, 6),
)
async def test_whatever_policies_answer_each_event_is_one_deeper_than_its_cause_and_none_is_too_deep(
    answers: Answers, starts: list[int], limit: int
) -> None:
    """Each policy reacts to one type of event, by a number in it. Whether there are loops is left to chance."""

    def answer(event: Counted | Ignored) -> list[Any]:
        kind = answers.get((type(event), int(event.counters[0])), [])
        return [command([str(number)]) for command, number in kind]

    async def of_counted(event: Counted) -> list[Any]:
        return answer(event)

    async def of_ignored(event: Ignored) -> list[Any]:
        return answer(event)

    chosen = Settings(max_causation_depth=limit, poll_seconds=0.01)
    module = policies(of_counted, of_ignored)
    async with App(module, write_store="memory:", read_store="memory:", settings=chosen) as app:
        for number in starts:
            await app.send(Count([str(number)]))

        async def quiet() -> bool:
            followers = [each for each in (await app.status()).followers if each.kind == "policy"]
            return all(each.paused or (each.lag == 0 and each.state == "up-to-date") for each in followers)

        await until(quiet, "every policy is paused or has nothing to do")
        events = {event.id: event for event in await recorded(app)}
        for event in events.values():
            cause = events.get(event.metadata.causation_id or "")
            assert event.metadata.depth == (0 if cause is None else cause.metadata.depth + 1) <= limit
        for name in ("of_counted", "of_ignored"):
            pause = (await follower(app, name)).pause
            if pause is not None:
                tripped = next(event for event in events.values() if event.position == pause.position)
                assert tripped.metadata.depth == limit
                assert answer(app.events.decode(tripped))
