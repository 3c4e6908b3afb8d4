"""A process that is killed while it moves its log leaves exactly one log, which has all that was acknowledged, once."""

import asyncio
import json
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.operations.moving_bank_helpers import Callers, check_moved, place_for
from tests.operations.moving_bank_process import opened_bank
from twofold import WiringError
from twofold.domain.event_query import NO_EVENTS
from twofold.receipt import Receipt
from twofold.settings import Settings
from twofold.stores import open_write_store
from twofold.world import RealWorld

_PROCESS = "tests.operations.moving_bank_process"
_LONGEST = 0.5
"""Seconds until a process is killed at the latest, after it has begun to move."""


class KilledBank:
    """A bank whose log is moved from one place to another by processes that are killed."""

    def __init__(self, before: str, after: str, history: Path) -> None:
        self.before = before
        self.after = after
        self.pauses: list[float] = []
        """Seconds that commands waited in the moves that came to their end."""
        self._history = history
        history.touch()

    async def start(self, *step: str) -> asyncio.subprocess.Process:
        """A process that moves the log, once it has begun."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _PROCESS, self.before, self.after, str(self._history), *step),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"running\n"
        return process

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process, and note how long commands waited if it had moved the log."""
        process.send_signal(signal.SIGKILL)
        out, _ = await process.communicate()
        self.pauses += [float(line.split()[1]) for line in out.decode().splitlines() if line.startswith("paused ")]

    async def usable(self) -> list[str]:
        """The logs of the two that can be opened for writing.

        Without the second one where it is empty: the process was killed before it had begun the copy.
        """
        found: list[str] = []
        for url in (self.before, self.after):
            with suppress(WiringError):
                store = await open_write_store(url, Settings(), RealWorld())
                if url == self.before or (await store.read(NO_EVENTS)).head:
                    found.append(url)
                await store.close()
        return found

    def receipts(self) -> dict[str, Receipt]:
        """What was acknowledged."""
        lines = [json.loads(line) for line in self._history.read_text("utf-8").splitlines()]
        return {command_id: Receipt(command_id, position, "", events) for command_id, position, events in lines}

    async def check(self) -> None:
        """AssertionError unless the one log has all that was acknowledged, once."""
        app = await opened_bank(self.before, self.after)
        try:
            await check_moved(app, self.receipts())
        finally:
            await app.stop()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
async def test_a_kill_at_any_step_leaves_one_log_that_has_everything_once(
    source: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = await place_for(source, "before", tmp_path, request)
    for number, (moment, step, left) in enumerate(
        [
            ("before", "add_events", "before"),
            ("after", "add_events", "before"),
            ("after", "settle", "before"),
            ("before", "seal", "before"),
            ("after", "seal", "none"),
            ("before", "complete", "none"),
            ("after", "complete", "after"),
            ("before", "opened", "after"),
        ]
    ):
        # PostgreSQL seals in a transaction, which is committed after the call.
        left = "before" if (moment, step, source) == ("after", "seal", "postgresql") else left
        after = await place_for(target, f"after-{number}", tmp_path, request)
        bank = KilledBank(before, after, tmp_path / f"history-{number}")
        process = await bank.start(moment, step)
        assert await asyncio.wait_for(process.wait(), 25) == -signal.SIGKILL
        expected = {"before": [before], "after": [after], "none": []}[left]
        assert await bank.usable() == expected, (moment, step)
        assert bank.receipts()
        await bank.check()
        (log,) = await bank.usable()
        if log != before:
            before = await place_for(source, f"before-{number}", tmp_path, request)


async def kill_again_and_again(kills: int, ways: list[str], folder: Path, request: pytest.FixtureRequest) -> int:
    """Kill at random moments, until a log has come to where it was moved; then move it on to the next place.

    How many kills came before the end of a move.
    """
    seed = secrets.randbelow(10**9)
    random = Random(seed)
    try:
        place, moves = await place_for(ways[0], "place-0", folder, request), 0
        pauses: list[float] = []
        bank: KilledBank | None = None
        for kill in range(1, kills + 1):
            if bank is None:
                kind = ways[(moves + 1) % len(ways)]
                bank = KilledBank(place, await place_for(kind, f"place-{kill}", folder, request), folder / f"h-{kill}")
            process = await bank.start()
            await asyncio.sleep(random.uniform(0, _LONGEST))
            await bank.kill(process)
            assert len(await bank.usable()) <= 1, "two logs take appends"
            await bank.check()
            if await bank.usable() == [bank.after]:
                pauses += bank.pauses
                place, bank, moves = bank.after, None, moves + 1
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    show_pauses(f"{kills} kills, {moves} moves", pauses)
    return kills - moves


def show_pauses(what: str, seconds: list[float]) -> None:
    """Say how long commands waited: `pytest -s` shows it. On a busy machine it says little, so nothing is asserted."""
    if seconds:
        ordered = sorted(seconds)
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
        say(f"{what}: commands waited {p50:.3f} s (p50), {p99:.3f} s (p99), {ordered[-1]:.3f} s (longest)")


def say(figures: str) -> None:
    sys.stdout.write(f"{figures}\n")


@pytest.mark.timeout(900)
async def test_three_kills_at_random_moments_lose_nothing_and_double_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await kill_again_and_again(3, ["sqlite", "postgresql"], tmp_path, request)


@pytest.mark.torture
@pytest.mark.timeout(3_000)
async def test_a_log_that_moves_thirty_times_under_load_is_never_away_for_long(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = [await place_for(kind, f"place-{kind}", tmp_path, request) for kind in ("sqlite", "postgresql")]
    app = await opened_bank(places[0], places[1])
    callers, pauses = Callers(app), list[float]()
    try:
        async with callers.running():
            for move in range(30):
                await callers.more(20)
                status = await app.move_to(places[(move + 1) % 2])
                assert status.pause_seconds is not None
                pauses.append(status.pause_seconds)
        await check_moved(app, callers.receipts)
    finally:
        await app.stop()
    show_pauses(f"30 moves back and forth, {len(callers.receipts)} deposits", pauses)
    say(f"a caller waited {callers.longest:.3f} s at the longest, {callers.unavailable} calls were refused")


@pytest.mark.torture
@pytest.mark.timeout(1_800)
async def test_twenty_kills_at_random_moments_lose_nothing_and_double_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    unfinished = await kill_again_and_again(20, ["sqlite", "postgresql", "sqlite"], tmp_path, request)
    assert unfinished > 0, "all kills came after the end of the move"
