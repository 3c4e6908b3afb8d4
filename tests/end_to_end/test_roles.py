"""An app in parts: commands, queries and followers in apps of their own, over the same stores on servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, Total, TotalOf, Totals, counters
from tests.servers.mongodb import fresh_database
from tests.servers.postgres import Postgres, fresh_schema
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.errors import InvalidMessage, RoleAbsent, Unavailable
from twofold.settings import Settings
from twofold.write_store.port import StampParts

Stores = dict[str, str]


@pytest.fixture(params=["postgresql", "mongodb"])
async def stores(request: pytest.FixtureRequest, postgres_newest: Postgres) -> Stores:
    """A log on PostgreSQL, and a read store of each kind."""
    if request.param == "postgresql":
        read_store = f"{postgres_newest.dsn}?schema={fresh_schema()}"
    else:
        read_store = request.getfixturevalue("mongodb").url_of(fresh_database())
    return {"write_store": await fresh_log(postgres_newest.dsn), "read_store": read_store}


@asynccontextmanager
async def part(roles: str, stores: Stores, module: Module | None = None, **settings: Any) -> AsyncIterator[App]:
    chosen = Settings(roles=roles, poll_seconds=0.02, lease_seconds=2.0, **settings)
    async with App(module or counters(), **stores, settings=chosen) as app:
        yield app


async def test_a_command_waits_for_followers_of_another_process_and_a_query_of_a_third_sees_it(stores: Stores) -> None:
    async def again(event: Counted) -> Count | None:
        return Count(["answered"]) if event.counters == ["a"] else None

    module = counters(policies=[Policy("again", again)])
    async with (
        part("command", stores, module) as command,
        part("query", stores, module) as query,
        part("sync", stores, module) as sync,
    ):
        # The other two have started before anything was there to read.
        await until(lambda: _knows(query), "the generation that serves is known")
        for n in range(1, 21):
            receipt = await command.send(Count(["a"]), wait_for=["totals", "again"], wait_seconds=60)
            assert receipt.late == []
            answer = await query.ask(TotalOf("a"), position=receipt.token)
            assert (answer.value.total, answer.position >= receipt.position) == (n, True)
        # Its command is written by the process that runs the policy.
        token = sync.token((await sync.log()).head)
        assert (await query.ask(TotalOf("answered"), position=token, timeout=60)).value.total == 20
        assert command._running is not None and not command._running.synchronization.workers
        assert (await command.status()).health.command_side == "ready"
        assert (await query.status()).health.problems == ()
        with pytest.raises(RoleAbsent, match="role 'command'"):
            await query.send(Count(["a"]))
        with pytest.raises(RoleAbsent, match="role 'query'"):
            await command.ask(TotalOf("a"))
        with pytest.raises(RoleAbsent, match="role 'command'"):
            await sync.send(Count(["a"]))


async def test_a_command_that_waits_says_who_is_late_while_nobody_follows(stores: Stores) -> None:
    async with part("command", stores) as command:
        receipt = await command.send(Count(["a"]), wait_for=["totals"], wait_seconds=0.2)
        assert receipt.late == ["totals"]
        async with part("sync", stores):
            receipt = await command.send(Count(["a"]), wait_for=["totals"], wait_seconds=60)
            assert receipt.late == []


async def test_operators_act_by_a_process_that_follows_nothing(stores: Stores) -> None:
    async with part("command", stores) as command, part("console", stores) as console, part("sync", stores) as sync:
        await command.send(Count(["a"], 5), wait_for=["totals"], wait_seconds=60)
        await until(lambda: _knows(console), "the generation that serves is known")
        health = (await console.status()).health
        assert (health.command_side, health.query_side, health.problems) == ("ready", "ready", ())
        paused = await console.projections.pause("totals", "a check", actor="ann")
        assert (paused.done, paused.actor) == (True, "ann")
        await until(lambda: sync._running and not sync._running.synchronization.workers, "paused there")
        await console.projections.resume("totals")
        repaired = await console.projections.repair("totals", "a", timeout=60)
        assert repaired.done, repaired.outcome
        assert await console.projections.rebuild(["totals"]) == {"totals": 2}

        async def switched() -> bool:
            try:
                return await console.projections.switch("totals") == 2
            except Unavailable:
                return False

        await until(switched, "built and switched to")
        assert await console.projections.drop("totals") == [1]
        assert [action.what for action in (await console.projections.actions()).values()] == [
            *("pause", "resume", "repair", "rebuild", "switch", "drop")
        ]


async def test_a_query_process_notices_another_generation_and_never_answers_from_one_that_was_dropped(
    stores: Stores,
) -> None:
    async with part("command,sync,console", stores) as writer, part("query", stores) as query:
        receipt = await writer.send(Count(["a"], 7), wait_for=["totals"], wait_seconds=60)
        await until(lambda: _knows(query), "the generation that serves is known")
        assert (await query.ask(TotalOf("a"), position=receipt.token)).value.total == 7
        await writer.projections.rebuild(["totals"])

        async def switched() -> bool:
            try:
                return await writer.projections.switch("totals") == 2
            except Unavailable:
                return False

        await until(switched, "switched")
        from_now: list[Any] = []
        dropping = asyncio.create_task(writer.projections.drop("totals"))
        while not dropping.done() or query.models["totals"].generation != 2:
            answer = await query.ask(TotalOf("a"))
            from_now.append(answer.value)
            await asyncio.sleep(0.01)
        assert await dropping == [1]
        assert {row and row.total for row in from_now} == {7}


async def test_a_query_without_the_write_side_is_answered_and_health_says_so(
    stores: Stores, postgres_bindir: Any
) -> None:
    with Postgres(postgres_bindir) as server:
        away = {**stores, "write_store": await fresh_log(server.dsn)}
        async with part("command,sync", away) as writer:
            receipt = await writer.send(Count(["a"], 3), wait_for=["totals"], wait_seconds=60)
        async with part("query", away) as query:
            assert (await query.ask(TotalOf("a"), position=receipt.token)).value.total == 3
            server.kill()
            await _answers_alone(query, receipt.token)
        # One that starts now.
        async with part("query", away) as query:
            await until(lambda: _knows(query), "the only generation")
            await _answers_alone(query, receipt.token)


async def _answers_alone(query: App, token: str) -> None:
    answer = await query.ask(TotalOf("a"), position=token, timeout=60)
    assert answer.value == Total("a", 3, 3)
    assert [row.total for row in (await query.ask(Totals())).value] == [3]
    stamp, _, position = token.rpartition(".")
    parts = StampParts.of(stamp)
    assert parts is not None
    # Another epoch, or another digest at the same position, may be another history.
    for other in (f"{parts.log}.{parts.epoch + 1}.{parts.digest}", f"{parts.log}.{parts.epoch}.{'0' * 16}"):
        with pytest.raises(Unavailable, match="cannot be checked whether this position"):
            await query.ask(TotalOf("a"), position=f"{other}.{position}", timeout=60)
    with pytest.raises(InvalidMessage, match="not one of ours"):
        await query.ask(TotalOf("a"), position="nonsense")
    health = (await query.status()).health
    assert (health.level, health.query_side, health.command_side) == ("degraded", "degraded", None)
    assert [problem.code for problem in health.problems] == ["log-unreadable"]


def _knows(app: App) -> bool:
    return app.models["totals"].generation > 0
