"""The check of a log while its app runs: what it finds is in the health report, and is not served."""

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count
from twofold.app import App
from twofold.errors import Unavailable
from twofold.settings import Settings
from twofold.world import World
from twofold.write_store import background_check
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Verifiable


async def _codes(app: App) -> set[tuple[str, str]]:
    return {(problem.code, problem.side) for problem in (await app.status()).health.problems}


async def test_damage_in_the_middle_of_the_log_is_found_while_the_app_runs(tmp_path: Path) -> None:
    async with app_in(tmp_path, verify_events_per_second=100_000) as app:
        for number in range(5):
            await app.send(Count([f"c-{number}"]))
        checking = asyncio.create_task(app.verify_forever())
        with sqlite3.connect(tmp_path / "log.db") as log:
            log.execute("update events set payload = envelope where position = 3")
        checking.cancel()
        checking = asyncio.create_task(app.verify_forever())

        async def found() -> bool:
            return ("log-damaged", "command") in await _codes(app)

        await until(found, "the damage was found")
        assert ("log-damaged", "query") in await _codes(app)
        (message,) = {each.message for each in (await app.status()).health.problems if each.code == "log-damaged"}
        assert "The event at 3 does not fit the chain" in message
        with pytest.raises(Unavailable, match="damaged at position 3"):
            await app.log(after=2)
        assert len((await app.log(after=3)).events) == 2
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking


async def test_an_error_of_the_check_comes_to_its_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("twofold.write_store.background_check._check_once", fail)
    async with app_in(tmp_path, verify_events_per_second=100_000) as app, asyncio.timeout(60):
        with pytest.raises(RuntimeError, match="broken"):
            await app.verify_forever()


async def test_a_log_that_replaces_another_one_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Verifiable] = []
    check = background_check._check_once

    async def note(store: Verifiable, world: World, pause: float) -> None:
        checked.append(store)
        await check(store, world, pause)

    monkeypatch.setattr(background_check, "_check_once", note)
    async with app_in(tmp_path, verify_events_per_second=100_000) as app:
        checking = asyncio.create_task(app.verify_forever())
        await until(lambda: len(checked) == 1, "the first log is checked")
        await app.move_to(f"sqlite:///{tmp_path}/after.db")
        await until(lambda: len(checked) == 2, "the second log is checked")
        assert checked[1] is not checked[0]
        checking.cancel()
        await asyncio.wait([checking])


async def test_a_log_that_is_not_to_be_checked_is_not(tmp_path: Path) -> None:
    async with app_in(tmp_path, verify_events_per_second=0) as app:
        await app.verify_forever()
    assert not isinstance(MemoryWriteStore(), Verifiable)
    assert Settings().verify_events_per_second > 0
