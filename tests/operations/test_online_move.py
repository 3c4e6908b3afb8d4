"""The log of a running app moves to another write store under load: nothing is lost or doubled, and callers go on."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.operations.moving_bank_helpers import Callers, check_moved, moving_bank, place_for, until
from tests.sample_domains.bank import Deposit
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import Conflict, Unavailable, WiringError
from twofold.domain.event_query import ALL_EVENTS
from twofold.log_moving import CutOver
from twofold.settings import Settings
from twofold.stores import open_write_store, place_of
from twofold.synchronization.cluster_state import ClusterStateStore
from twofold.synchronization.service import Synchronization
from twofold.world import RealWorld
from twofold.write_store.port import LogIdentity
from twofold.write_store.sqlite import SqliteWriteStore
from twofold.write_store.sqlite.copying import SqliteLogCopy
from twofold.write_store.sqlite.snapshot import SqliteClosedLog

WAYS = [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite"), ("postgresql", "postgresql")]


@pytest.mark.parametrize(("source", "target"), WAYS)
async def test_a_move_under_load_loses_nothing_and_doubles_nothing(
    source: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = await place_for(source, "before", tmp_path, request)
    after = await place_for(target, "after", tmp_path, request)
    async with moving_bank(before) as app:
        callers = Callers(app)
        async with callers.running():
            await callers.more(200)
            status = await app.move_to(after)
            await callers.more(200)
        assert (status.state, status.place) == ("moved", place_of(after))
        assert app.settings.write_store == after
        assert callers.unavailable == 0, "commands wait, and do not fail"
        log = await check_moved(app, callers.receipts)
        assert {each.name: each.health for each in (await app.status()).followers if each.lag > 0} == {}
        epoch = app._running.write_store.identity  # type: ignore[union-attr]
        assert epoch.epoch == 2
    with pytest.raises(WiringError, match="was moved to"):
        await open_write_store(before, Settings(), RealWorld())
    old = await open_write_store(before, Settings(), RealWorld(), read_only=True)
    end = epoch.forks[0][1]
    page = await old.read(ALL_EVENTS)
    assert page.head == end
    assert page.events == log[: page.upto]
    await old.close()
    async with moving_bank(after) as app:
        receipt = await app.send(Deposit("a1", 1))
        assert receipt.position > len(log)


async def test_a_target_that_is_not_empty_is_refused_and_the_app_goes_on(tmp_path: Path) -> None:
    before, other = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/other.db"
    async with moving_bank(other) as app:
        await app.send(Deposit("a", 1))
    async with moving_bank(before) as app:
        await app.send(Deposit("a", 1))
        with pytest.raises(WiringError, match="is not empty"):
            await app.move_to(other)
        assert app.move.status is not None
        assert (app.move.status.state, "is not empty" in str(app.move.status.error)) == ("failed", True)
        assert (await app.send(Deposit("a", 1))).position >= 2
        assert app.settings.write_store == before
    async with moving_bank(other) as app:
        await app.send(Deposit("a", 1))


async def test_a_log_in_memory_is_not_moved(tmp_path: Path) -> None:
    async with moving_bank("memory:") as app:
        with pytest.raises(WiringError, match="exists only in its process"):
            await app.move_to(f"sqlite:///{tmp_path}/log.db")
        await app.send(Deposit("a", 1))


@pytest.mark.parametrize("failing", ["settle", "seal"])
async def test_where_the_last_part_fails_commands_go_on_with_the_old_log(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = f"sqlite:///{tmp_path}/before.db", f"sqlite:///{tmp_path}/after.db"
    failures = 0
    async with moving_bank(before) as app:
        callers = Callers(app)
        async with callers.running():
            await callers.more(20)

            async def fail(self: object, *_: object) -> None:
                nonlocal failures
                failures += 1
                raise Unavailable("The disk is full.")

            with monkeypatch.context() as broken:
                broken.setattr(SqliteLogCopy if failing == "settle" else SqliteClosedLog, failing, fail)
                with pytest.raises(Unavailable, match="The disk is full"):
                    await app.move_to(after)
            # The last part is tried again; what is copied before it is not.
            assert failures == (1 if failing == "settle" else 20)
            await callers.more(20)
            assert (await app.move_to(after)).state == "moved"
            await callers.more(20)
        assert callers.unavailable == 0
        await check_moved(app, callers.receipts)


async def test_a_seal_whose_answer_is_lost_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = f"sqlite:///{tmp_path}/before.db", f"sqlite:///{tmp_path}/after.db"
    seal = SqliteClosedLog.seal

    async def lost(self: SqliteClosedLog, place: str) -> None:
        await seal(self, place)
        raise Unavailable("The answer was lost.")

    monkeypatch.setattr(SqliteClosedLog, "seal", lost)
    async with moving_bank(before) as app:
        receipt = await app.send(Deposit("a", 1), command_id="c")
        assert (await app.move_to(after)).state == "moved"
        assert (await app.send(Deposit("a", 1), command_id="c")).position == receipt.position


async def test_a_copy_that_could_not_be_completed_at_once_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, failures = SqliteLogCopy.complete, 0

    async def twice(self: SqliteLogCopy, identity: LogIdentity) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise Unavailable("The disk is full.")
        await complete(self, identity)

    monkeypatch.setattr(SqliteLogCopy, "complete", twice)
    async with moving_bank(f"sqlite:///{tmp_path}/before.db") as app:
        await app.send(Deposit("a", 1), command_id="c")
        assert (await app.move_to(f"sqlite:///{tmp_path}/after.db")).state == "moved"
        assert (await app.send(Deposit("a", 1), command_id="c")).repeated
        assert failures == 3


async def test_an_app_whose_log_cannot_be_opened_at_the_new_place_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = f"sqlite:///{tmp_path}/after.db"

    async def fail(self: object) -> None:
        raise Unavailable("The disk is full.")

    monkeypatch.setattr(CutOver, "opened", fail)
    app = moving_bank(f"sqlite:///{tmp_path}/before.db")
    await app.start()
    first = await app.send(Deposit("a", 1), command_id="c")
    with pytest.raises(Unavailable, match="The disk is full"):
        await app.move_to(after)
    with pytest.raises(Unavailable, match=f"was moved to {place_of(after)}, and it cannot be opened there"):
        await app.send(Deposit("a", 1))
    assert (await app.status()).health.level == "not_ready"
    await app.stop()
    async with moving_bank(after) as app:
        assert (await app.send(Deposit("a", 1), command_id="c")).position == first.position


async def test_an_app_that_stops_while_it_follows_leaves_a_copy_that_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = f"sqlite:///{tmp_path}/before.db", f"sqlite:///{tmp_path}/after.db"
    reached = asyncio.Event()

    async def wait(self: object, identity: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with moving_bank(before) as app:
        await app.send(Deposit("a", 1), command_id="c")
        with monkeypatch.context() as broken:
            broken.setattr(SqliteLogCopy, "settle", wait)
            moving = app.move.start(after)
            await reached.wait()
            with pytest.raises(Conflict, match="is being moved to"):
                await app.move_to(f"sqlite:///{tmp_path}/elsewhere.db")
            assert app.move.start(after) is moving
            await app.stop()
        assert moving.cancelled()
    with pytest.raises(WiringError, match="is a copy that is not complete"):
        await open_write_store(after, Settings(), RealWorld())
    async with moving_bank(before) as app:
        assert (await app.send(Deposit("a", 1), command_id="c")).repeated
        await app.move_to(after)
        assert (await app.send(Deposit("a", 1), command_id="c")).repeated


async def test_another_node_joins_where_the_log_has_come_to_a_server(tmp_path: Path, postgres_newest: Postgres) -> None:
    after, views = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/views.db"
    async with moving_bank(f"sqlite:///{tmp_path}/before.db") as app:
        await app.send(Deposit("a", 1))
        await app.move_to(after)
        async with moving_bank(after, views) as other:
            running = other._running
            assert running is not None
            mine = app._running.synchronization.membership.node  # type: ignore[union-attr]
            await until(lambda: mine in running.synchronization.state.nodes)
            receipts = {}
            for number in range(20):
                receipt = await (app if number % 2 else other).send(
                    Deposit("a", 1_000), command_id=f"d-{number * 4_000}"
                )
                receipts[f"d-{number * 4_000}"] = receipt
            assert len({receipt.position for receipt in receipts.values()}) == 20
            assert not await app.projections.late(["bonus"], receipt.position, 60)


async def test_nodes_of_the_old_log_are_refused_and_say_where_it_is(tmp_path: Path, postgres_newest: Postgres) -> None:
    before, after = await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/after.db"
    async with moving_bank(before) as app, moving_bank(before, f"sqlite:///{tmp_path}/views.db") as other:
        first = await other.send(Deposit("a", 1), command_id="c")
        await app.move_to(after)
        with pytest.raises(Unavailable, match=f"was moved to {place_of(after)}"):
            await other.send(Deposit("a", 1), command_id="late")
        assert (await app.send(Deposit("a", 1), command_id="c")).position == first.position
        assert not (await app.send(Deposit("a", 1), command_id="late")).repeated
        problems = [problem.message for problem in (await other.status()).health.problems]
        assert any("was moved to" in message for message in problems)


async def test_an_app_goes_on_although_its_old_store_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: object) -> None:
        raise OSError("The disk is gone.")

    async with moving_bank(f"sqlite:///{tmp_path}/before.db") as app:
        await app.send(Deposit("a", 1), command_id="c")
        with monkeypatch.context() as broken:
            broken.setattr(SqliteWriteStore, "close", fail)
            assert (await app.move_to(f"sqlite:///{tmp_path}/after.db")).state == "moved"
        assert (await app.send(Deposit("a", 1), command_id="c")).repeated
        assert "The store from which the log was moved could not be closed" in caplog.text


async def test_a_node_whose_row_could_not_be_written_after_the_move_joins_with_the_next_update(
    tmp_path: Path, postgres_newest: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, failures = ClusterStateStore.node, 0

    def fail_once(*arguments: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise Unavailable("The server is away.")
        return node(*arguments)

    async with moving_bank(f"sqlite:///{tmp_path}/before.db") as app:
        await app.send(Deposit("a", 1))
        monkeypatch.setattr(ClusterStateStore, "node", fail_once)
        assert (await app.move_to(await fresh_log(postgres_newest.dsn))).state == "moved"
        synchronization = app._running.synchronization  # type: ignore[union-attr]
        await until(lambda: synchronization.membership.node in synchronization.state.nodes)
        first = synchronization.state.nodes[synchronization.membership.node].version
        await until(lambda: synchronization.state.nodes[synchronization.membership.node].version > first)
        receipt = await app.send(Deposit("a", 1))
        assert not await app.projections.late(["bonus"], receipt.position, 60)


async def test_an_error_of_another_part_after_the_move_does_not_say_that_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Synchronization, "log_replaced", fail)
    async with moving_bank(f"sqlite:///{tmp_path}/before.db") as app:
        assert (await app.move_to(f"sqlite:///{tmp_path}/after.db")).state == "moved"
        assert app.settings.write_store == f"sqlite:///{tmp_path}/after.db"


async def test_the_second_move_of_one_process_names_the_log_that_it_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (f"sqlite:///{tmp_path}/{name}.db" for name in ("first", "second", "third"))

    async def fail(self: object, identity: object) -> None:
        raise Unavailable("The disk is full.")

    async with moving_bank(first) as app:
        await app.move_to(second)
        with monkeypatch.context() as broken:
            broken.setattr(SqliteLogCopy, "settle", fail)
            with pytest.raises(Unavailable):
                await app.move_to(third)
        with pytest.raises(WiringError, match=f"it follows the log at {place_of(second)}"):
            await open_write_store(third, Settings(), RealWorld())
        assert (await app.move_to(third)).state == "moved"


async def test_a_seal_that_is_known_only_to_the_next_attempt_completes_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal, answers = SqliteClosedLog.seal, 0

    async def lost(self: SqliteClosedLog, place: str) -> None:
        await seal(self, place)
        raise Unavailable("The answer was lost.")

    async def no_answer(self: object, place: str) -> bool:
        nonlocal answers
        answers += 1
        raise Unavailable("The store does not answer.")

    monkeypatch.setattr(SqliteClosedLog, "seal", lost)
    monkeypatch.setattr(CutOver, "_has_ended", no_answer)
    async with moving_bank(f"sqlite:///{tmp_path}/before.db") as app:
        await app.send(Deposit("a", 1), command_id="c")
        assert (await app.move_to(f"sqlite:///{tmp_path}/after.db")).state == "moved"
        assert answers == 1
        assert app.move.identity.epoch == 2
        assert (await app.send(Deposit("a", 1), command_id="c")).repeated


async def test_a_move_that_is_asked_for_again_once_it_is_done_answers_as_before(tmp_path: Path) -> None:
    before, after = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/after.db"
    async with moving_bank(before) as app:
        await app.send(Deposit("a", 1))
        status = await app.move_to(after)
        assert await app.move_to(after) == status
        assert status.state == "moved"
        await app.send(Deposit("a", 1))
        assert (await app.move_to(before)).state == "moved"
        assert (await app.move_to(after)).state == "moved"
