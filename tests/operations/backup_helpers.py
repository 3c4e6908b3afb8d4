"""Backups of a bank that is open meanwhile: `twofold backup` and `twofold restore` are processes of their own."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from tests.sample_domains.bank import Deposit, followed_bank
from twofold import App, Settings
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.operations.backup import BackupResult, BackupWork, backup
from twofold.operations.progress import no_progress
from twofold.operations.restore import RestoreOrder, RestoreResult, check, restore
from twofold.stores import open_write_store
from twofold.world import RealWorld

TWOFOLD = str(Path(sys.executable).with_name("twofold"))
_CALLERS = 4
_PAUSE = 0.01
"""Seconds between two deposits of a caller, so that the other process gets a turn on a small machine."""


async def twofold(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of the command line in another process, and the line of JSON it printed."""
    process = await asyncio.create_subprocess_exec(
        TWOFOLD, *arguments, "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out, err.decode()
    return process.returncode or 0, json.loads(out.splitlines()[-1])


async def done(*arguments: str) -> dict[str, Any]:
    """The data that the command line printed. AssertionError where it failed."""
    code, envelope = await twofold(*arguments)
    assert code == 0, envelope
    data: dict[str, Any] = envelope["data"]
    return data


async def refused(*arguments: str) -> str:
    """Why the command line refused to do something."""
    code, envelope = await twofold(*arguments)
    assert code in (2, 4), envelope
    message: str = envelope["error"]["message"]
    return message


async def until(reached: Callable[[], bool]) -> None:
    """Return once a condition is true."""
    async with asyncio.timeout(60):
        while not reached():
            await RealWorld().sleep(0.01)


class Load:
    """Callers that deposit one cent more each time, and what was acknowledged: cents by position."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.cents: dict[int, int] = {}
        self._numbers = count(1)

    async def deposit(self) -> None:
        """Deposit once."""
        number = next(self._numbers)
        receipt = await self.app.send(Deposit(f"a{number % 7}", number), command_id=f"d-{number}")
        self.cents[receipt.position] = number

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deposits without a pause, as long as the context lasts."""
        going = True

        async def caller() -> None:
            while going:
                await self.deposit()
                await asyncio.sleep(_PAUSE)

        callers = [asyncio.create_task(caller()) for _ in range(_CALLERS)]
        try:
            yield
        finally:
            going = False
            await asyncio.gather(*callers)

    def has(self, more: int) -> Callable[[], bool]:
        """A condition: so many more deposits than now were acknowledged."""
        wanted = len(self.cents) + more
        return lambda: len(self.cents) >= wanted

    def total(self, position: int) -> int:
        """The cents of all deposits up to a position."""
        return sum(cents for at, cents in self.cents.items() if at <= position)


@asynccontextmanager
async def loaded_bank(url: str, read_store: str = "memory:") -> AsyncIterator[Load]:
    """An open bank with a log at a URL, and callers to be started."""
    async with App(followed_bank(), write_store=url, read_store=read_store) as app:
        yield Load(app)


async def filled_log(url: str, deposits: int = 30, first: int = 1, read_store: str = "memory:") -> None:
    """Deposit into the log at a URL, so that its file is closed afterwards."""
    async with App(followed_bank(), write_store=url, read_store=read_store) as app:
        for number in range(first, first + deposits):
            await app.send(Deposit(f"a{number % 7}", number), command_id=f"f-{number}")


async def events_at(url: str) -> Sequence[RecordedEvent]:
    """All events of the log at a URL."""
    log = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    events: list[RecordedEvent] = []
    while page := (await log.read(ALL_EVENTS, len(events))).events:
        events += page
    await log.close()
    return events


def total_of(events: Sequence[RecordedEvent]) -> int:
    """The cents of these deposits."""
    return sum(msgspec.json.decode(event.payload)["cents"] for event in events)


async def backed_up(url: str, target: Path, read_models: str | None = None) -> BackupResult:
    """Back up a log that is not open in this process."""
    log = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    try:
        return await backup(log, target, BackupWork(read_models, RealWorld(), no_progress))
    finally:
        await log.close()


async def restored(source: Path, url: str, *, read_models: str | None = None, replace: bool = False) -> RestoreResult:
    """Restore a backup."""
    return await restore(source, RestoreOrder(url, read_models, replace), RealWorld())


async def drill(load: Load, url: str, folder: Path, target: str) -> int:
    """Back up under load, restore and compare with what was acknowledged. Returns the position of the backup."""
    async with load.running():
        await until(load.has(20))
        made = await done("backup", "--to", str(folder), "--write-store", url)
        await until(load.has(20))
    position: int = made["position"]
    assert position < len(load.cents), "commands went on meanwhile"
    checked = await check(folder, RealWorld())
    assert (checked.position, checked.events, checked.problem) == (position, position, None)
    result = await restored(folder, target)
    assert (result.position, result.events, result.lost) == (position, position, None)
    events = await events_at(target)
    assert (len(events), total_of(events)) == (position, load.total(position)), "totals are those of that position"
    assert [event.chain for event in events] == [event.chain for event in (await events_at(url))[:position]]
    return position


def names_and_bytes(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
