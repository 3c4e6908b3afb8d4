"""A copy that is kept beside a running app: taken into use without its log, it is right as of its last event."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.operations.backup_helpers import filled_log
from tests.operations.moving_bank_helpers import Callers, check_moved, moving_bank, place_for, until
from twofold import WiringError
from twofold.domain.envelope import Metadata
from twofold.log_moving import movable, take_into_use
from twofold.operations.move import keep_copy, move
from twofold.operations.progress import no_progress
from twofold.settings import Settings
from twofold.stores import open_log_copy, open_write_store
from twofold.world import RealWorld, microseconds
from twofold.write_store.log_content import LogCopy, RememberedCommand
from twofold.write_store.log_copier import Pace, copy_events
from twofold.write_store.port import Append, LogIdentity, LogRow


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
async def test_a_copy_kept_under_load_has_rows_and_commands_as_of_its_last_event(
    source: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    log = await place_for(source, "log", tmp_path, request)
    copy = await place_for(target, "copy", tmp_path, request)
    rounds: list[int] = []
    problems: list[Exception] = []
    async with moving_bank(log) as app:
        callers = Callers(app)
        async with callers.running():
            await callers.more(50)
            following = asyncio.ensure_future(keep_copy(log, copy, RealWorld(), rounds.append, problems.append))
            await until(lambda: len(rounds) >= 4)
            following.cancel()
            await asyncio.wait([following])
            await callers.more(50)
        following = asyncio.ensure_future(keep_copy(log, copy, RealWorld(), rounds.append, problems.append))
        before = len(rounds)
        await until(lambda: len(rounds) > before)
        following.cancel()
        await asyncio.wait([following])
    assert problems == []
    assert rounds == sorted(rounds)
    identity, head = await take_into_use(copy, RealWorld(), abandon=True)
    assert (head, identity.forks[-1]) == (rounds[-1], (identity.epoch, head))
    kept = {key: receipt for key, receipt in callers.receipts.items() if receipt.position <= head}
    assert len(kept) > 50
    async with moving_bank(copy) as app:
        await check_moved(app, kept)


async def test_a_copy_that_was_stopped_while_it_caught_up_is_not_taken_into_use(tmp_path: Path) -> None:
    url, copied = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/copy.db"
    await filled_log(url, 5)
    log = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    async with movable(log).snapshot() as snapshot, open_log_copy(copied, log.identity, url, RealWorld()) as copy:
        await copy_events(snapshot, copy, snapshot.head, Pace(no_progress, RealWorld()))
    await log.close()
    with pytest.raises(WiringError, match="but not the command ids and rows that belong to them"):
        await take_into_use(copied, RealWorld(), abandon=True)
    assert (await move(url, copied, RealWorld())).head == 5


async def test_a_copy_whose_log_has_lost_events_is_not_continued(tmp_path: Path) -> None:
    url, copied = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/copy.db"
    await filled_log(url, 5)
    following = asyncio.ensure_future(keep_copy(url, copied, RealWorld(), lambda _: following.cancel(), _fail))
    await asyncio.wait([following])
    (tmp_path / "log.db").rename(tmp_path / "lost.db")
    await filled_log(url, 3)
    with pytest.raises(WiringError, match="is not empty"):
        await keep_copy(url, copied, RealWorld(), lambda _: None, _fail)
    assert (await take_into_use(copied, RealWorld(), abandon=True))[1] == 5


async def test_a_log_that_was_moved_is_not_followed(tmp_path: Path) -> None:
    url, moved = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/moved.db"
    await filled_log(url, 5)
    await move(url, moved, RealWorld())
    with pytest.raises(WiringError, match="was moved to"):
        await keep_copy(url, f"sqlite:///{tmp_path}/copy.db", RealWorld(), lambda _: None, _fail)


KINDS = ["sqlite", "postgresql"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_copy_is_not_taken_into_use_while_its_log_is_there(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    copied, _ = await _settled_copy(kind, tmp_path, request)
    with pytest.raises(WiringError, match=r"still at sqlite:///.*log.db, up to position 5"):
        await take_into_use(copied, RealWorld())
    (tmp_path / "log.db").rename(tmp_path / "elsewhere.db")
    await filled_log(f"sqlite:///{tmp_path}/log.db", 3)
    assert (await take_into_use(copied, RealWorld()))[1] == 5, "another log is there, so its own is lost"


async def _settled_copy(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, LogIdentity]:
    """The URL of a complete copy of a log with five events, and the identity of the log."""
    url, copied = f"sqlite:///{tmp_path}/log.db", await place_for(kind, "copy", tmp_path, request)
    await filled_log(url, 5)
    following = asyncio.ensure_future(keep_copy(url, copied, RealWorld(), lambda _: following.cancel(), _fail))
    await asyncio.wait([following])
    log = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    await log.close()
    return copied, log.identity


def _opened(copied: str, identity: LogIdentity) -> AbstractAsyncContextManager[LogCopy]:
    return open_log_copy(copied, identity, "elsewhere", RealWorld())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_complete_copy_that_was_only_opened_again_can_be_taken_into_use(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    copied, identity = await _settled_copy(kind, tmp_path, request)
    async with _opened(copied, identity) as copy:
        assert await copy.add_commands(await copy.commands("", 10)) == 0
        await copy.set_rows("timers", {})
        assert copy.settled == 5, "nothing was written"
    assert (await take_into_use(copied, RealWorld(), abandon=True))[1] == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("written", ["command", "row"])
async def test_a_copy_to_which_anything_was_written_is_not_settled(
    written: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    copied, identity = await _settled_copy(kind, tmp_path, request)
    async with _opened(copied, identity) as copy:
        if written == "command":
            await copy.add_commands([RememberedCommand("new", b"h", 5, 0, 1)])
        else:
            await copy.set_rows("timers", {"key": LogRow(b"{}", 1)})
        assert copy.settled is None
    with pytest.raises(WiringError, match="but not the command ids and rows that belong to them"):
        await take_into_use(copied, RealWorld(), abandon=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_id_that_was_forgotten_and_used_again_has_its_last_outcome_in_the_copy(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first, again = RememberedCommand("~", b"first", 2, 1, 10), RememberedCommand("~", b"again", 4, 2, 20)
    without_events = RememberedCommand("~", b"third", 4, 0, 30)
    async with _opened(*await _settled_copy(kind, tmp_path, request)) as copy:
        for command in (first, again, without_events):
            assert await copy.add_commands([command]) == 1
            assert list(await copy.commands("}", 10)) == [command]
        assert await copy.add_commands([first]) == 0
        assert list(await copy.commands("}", 10)) == [without_events]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_clock_of_command_ids_goes_on_where_another_process_completes_the_copy(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    newest = microseconds(RealWorld().now()) + 3_600_000_000
    copied, identity = await _settled_copy(kind, tmp_path, request)
    async with _opened(copied, identity) as copy:
        await copy.add_commands([RememberedCommand("newest", b"h", 5, 0, newest)])
        await copy.add_commands([RememberedCommand("older", b"h", 5, 0, newest - 3_500_000_000)])
        await copy.settle(copy.identity)
    await take_into_use(copied, RealWorld(), abandon=True)
    store = await open_write_store(copied, Settings(), RealWorld())
    await store.append([Append(Metadata(0, "next", "next"), command_id="next")])
    async with movable(store).snapshot() as snapshot:
        (after,) = [each for each in await snapshot.commands("", 100) if each.command_id == "next"]
    assert after.recorded_at >= newest
    await store.close()


def _fail(error: Exception) -> None:
    raise AssertionError from error
