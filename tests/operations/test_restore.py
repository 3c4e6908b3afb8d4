"""A restore replaces a log by a verified one of a new epoch, and loses nothing without being asked to."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.operations.backup_helpers import (
    TWOFOLD,
    backed_up,
    events_at,
    filled_log,
    loaded_bank,
    restored,
)
from tests.sample_domains.bank import BalanceOf, Deposit, followed_bank
from tests.servers.postgres import Postgres
from tests.servers.server import ServerError
from tests.write_store.postgres_helpers import fresh_log
from twofold import App, Unavailable, WiringError
from twofold.errors import ForkedHistory, InvalidMessage
from twofold.operations.restore import check
from twofold.world import RealWorld


@pytest.fixture
async def log(tmp_path: Path) -> str:
    """A log of 20 events whose backup, `set`, has the first 10."""
    url = f"sqlite:///{tmp_path}/log.db"
    await filled_log(url, 10)
    await backed_up(url, tmp_path / "set")
    await filled_log(url, 10, first=11)
    return url


async def test_a_log_that_is_newer_is_replaced_only_when_told_and_is_kept(log: str, tmp_path: Path) -> None:
    before = await events_at(log)
    with pytest.raises(WiringError, match=r"10 events would be lost \(positions 11 to 20\).*--replace"):
        await restored(tmp_path / "set", log)
    assert await events_at(log) == before
    result = await restored(tmp_path / "set", log, replace=True)
    assert result.lost is not None
    assert (result.lost.first, result.lost.last, result.lost.count) == (11, 20, 10)
    assert await events_at(log) == before[:10]
    assert result.kept == f"{tmp_path}/log.db.replaced-1"
    assert await events_at(f"sqlite:///{result.kept}") == before
    again = await restored(tmp_path / "set", log)
    assert (again.epoch, again.kept) == (3, f"{tmp_path}/log.db.replaced-2"), "each restore begins an epoch of its own"


async def test_events_of_a_fork_count_as_lost_from_where_it_begins(log: str, tmp_path: Path) -> None:
    await restored(tmp_path / "set", f"sqlite:///{tmp_path}/fork.db")
    await backed_up(log, tmp_path / "set")
    await filled_log(f"sqlite:///{tmp_path}/fork.db", 3, first=100)
    with pytest.raises(WiringError, match=r"3 events would be lost \(positions 11 to 13\)"):
        await restored(tmp_path / "set", f"sqlite:///{tmp_path}/fork.db")


async def test_another_log_is_replaced_only_when_told(log: str, tmp_path: Path) -> None:
    await filled_log(f"sqlite:///{tmp_path}/other.db", 4)
    with pytest.raises(WiringError, match=r"the log main-\w+ up to position 4.* 4 events would be lost"):
        await restored(tmp_path / "set", f"sqlite:///{tmp_path}/other.db")


async def test_a_log_whose_app_runs_is_not_replaced(log: str, tmp_path: Path) -> None:
    async with loaded_bank(log) as load:
        with pytest.raises(WiringError, match=r"Another process \(pid \d+\) writes to .*log\.db"):
            await restored(tmp_path / "set", log, replace=True)
        await load.deposit()
    assert not (tmp_path / "log.db.restoring").exists()


async def test_a_log_that_is_read_is_not_replaced(log: str, tmp_path: Path) -> None:
    follow = [TWOFOLD, "log", "--follow", "--json", "--write-store", log]
    with subprocess.Popen(follow, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline()
        with pytest.raises(Unavailable, match="is read by another process"):
            await restored(tmp_path / "set", log, replace=True)
        assert len(await events_at(log)) == 20
        reader.terminate()
    await restored(tmp_path / "set", log, replace=True)


async def test_a_log_that_cannot_be_read_is_replaced_only_when_told_and_is_kept(log: str, tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"no database, and longer than the header of one" * 100)
    with pytest.raises(
        WiringError, match=r"cannot be read, so it is unknown what would be lost.*file is not a database"
    ):
        await restored(tmp_path / "set", log)
    result = await restored(tmp_path / "set", log, replace=True)
    assert result.unreadable is not None
    assert Path(str(result.kept)).read_bytes().startswith(b"no database")
    assert len(await events_at(log)) == 10


async def test_a_damaged_log_is_right_again_after_a_restore(log: str, tmp_path: Path) -> None:
    await backed_up(log, tmp_path / "set")
    before = await events_at(log)
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection, connection:
        connection.execute("delete from events where position = 7")
        connection.execute("update events set payload = x'7b' where position = 8")
        connection.execute("delete from event_tags where position = 9")
    assert (await restored(tmp_path / "set", log)).lost is None
    assert await events_at(log) == before
    async with loaded_bank(log):
        pass


async def test_a_read_model_that_is_ahead_of_a_restored_log_is_refused_and_no_command_is_taken(tmp_path: Path) -> None:
    url, views = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/views.db"
    await filled_log(url, 10)
    await backed_up(url, tmp_path / "set")
    async with loaded_bank(url, views) as load:
        for number in range(10):
            last = await load.app.send(Deposit("a1", 5), command_id=f"later-{number}")
        await load.app.ask(BalanceOf("a1"), position=last.token)
    await restored(tmp_path / "set", url, replace=True)
    async with App(followed_bank(), write_store=url, read_store=views) as app:
        with pytest.raises(InvalidMessage, match="does not hold this position"):
            await app.ask(BalanceOf("a1"), position=last.token)
        with pytest.raises(ForkedHistory, match="accept it with `twofold recover`"):
            await app.ask(BalanceOf("a1"))
        with pytest.raises(Unavailable, match="no command is taken"):
            await app.send(Deposit("a1", 1))
        health = (await app.status()).health
        assert (health.command_side, health.query_side) == ("not_ready", "not_ready")
        assert "forked-history" in [problem.code for problem in health.problems]
    assert len(await events_at(url)) == 10


async def test_read_models_of_the_backup_go_on_with_the_restored_log(tmp_path: Path) -> None:
    url, views = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/views.db"
    async with loaded_bank(url, views) as load:
        for number in range(1, 15):
            last = await load.app.send(Deposit(f"a{number % 7}", number))
        await load.app.ask(BalanceOf("a1"), position=last.token)
    await backed_up(url, tmp_path / "set", read_models=f"{tmp_path}/views.db")
    await filled_log(url, 10, first=100, read_store=views)
    result = await restored(tmp_path / "set", url, read_models=f"{tmp_path}/views.db", replace=True)
    assert result.lost is not None
    async with App(followed_bank(), write_store=url, read_store=views) as app:
        assert (await app.ask(BalanceOf("a1"))).value.cents == 1 + 8
        new = await app.send(Deposit("a1", 100))
        assert new.position == 15
        assert (await app.ask(BalanceOf("a1"), position=new.token)).value.cents == 109


async def test_a_damaged_copy_of_read_models_does_not_keep_the_log_from_being_restored(tmp_path: Path) -> None:
    url, views = f"sqlite:///{tmp_path}/log.db", f"{tmp_path}/views.db"
    async with loaded_bank(url, f"sqlite:///{views}") as load:
        for number in range(1, 15):
            last = await load.app.send(Deposit(f"a{number % 7}", number))
        await load.app.ask(BalanceOf("a1"), position=last.token)
    await backed_up(url, tmp_path / "set", read_models=views)
    copy = tmp_path / "set" / "views-1.db"
    content = bytearray(copy.read_bytes())
    content[-100:] = bytes(100)
    copy.write_bytes(content)
    problem = (await check(tmp_path / "set", RealWorld())).problem
    assert "The log is right, but not the copy of the read models" in (problem or "")
    new, new_views = f"sqlite:///{tmp_path}/new/log.db", f"{tmp_path}/new/views.db"
    result = await restored(tmp_path / "set", new, read_models=new_views)
    assert (result.position, "views-1.db has changed" in (result.read_models or "")) == (14, True)
    async with App(followed_bank(), write_store=new, read_store=f"sqlite:///{new_views}") as app:
        token = app.token(14)
        assert (await app.ask(BalanceOf("a1"), position=token)).value.cents == 1 + 8


async def test_a_schema_of_postgresql_is_replaced_in_one_transaction(postgres: Postgres, tmp_path: Path) -> None:
    url = await fresh_log(postgres.dsn)
    await filled_log(url, 10)
    await backed_up(url, tmp_path / "set")
    await filled_log(url, 10, first=11)
    before = await events_at(url)
    with pytest.raises(WiringError, match=r"10 events would be lost \(positions 11 to 20\)"):
        await restored(tmp_path / "set", url)
    result = await restored(tmp_path / "set", url, replace=True)
    assert (result.epoch, result.commands, result.lost is not None) == (2, 10, True)
    assert await events_at(url) == before[:10]
    async with loaded_bank(url) as load:
        assert (await load.app.send(Deposit("a1", 1), command_id="f-1")).repeated
        assert (await load.app.send(Deposit("a1", 1), command_id="f-11")).position == 11
    schema = url.rpartition("=")[2]
    with pytest.raises(ServerError, match="the log is never changed"):
        postgres.sql(f"delete from {schema}.events")


async def test_a_node_that_runs_on_a_replaced_schema_takes_no_more_commands(
    postgres_newest: Postgres, tmp_path: Path
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    await filled_log(url, 10)
    await backed_up(url, tmp_path / "set")
    async with loaded_bank(url) as load:
        await load.app.send(Deposit("a1", 1))
        await restored(tmp_path / "set", url, replace=True)
        for number in range(20):
            with pytest.raises(Unavailable, match="has lost events"):
                await load.app.send(Deposit("a1", number + 1))
    assert len(await events_at(url)) == 10
