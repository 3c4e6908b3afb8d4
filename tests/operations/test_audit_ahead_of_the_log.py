"""An audit of a read model that is ahead of its log ends with both positions. Nothing advises to delete data first."""

import shutil
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import app_in, settled
from tests.sample_domains.counters import Count
from twofold.cli.follower_reports import StoreReader
from twofold.errors import ForkedHistory, WiringError
from twofold.operations.audit import audit
from twofold.operations.compare import compare
from twofold.stores import open_read_store, open_write_store
from twofold.world import RealWorld

SAID = (
    r"The read model 'totals' is at position 5, and this log does not hold that position\. .* ends at position "
    r"{head}.* restore the log from a backup first: .* Only if this log is right, accept it with `twofold recover`"
)


@pytest.fixture(params=["older", "gone"])
async def head(request: pytest.FixtureRequest, tmp_path: Path) -> int:
    """A folder in which the read model is at position 5, and the log ends at this one: an older copy, or a new file."""
    async with app_in(tmp_path) as app:
        for n in range(2):
            await app.send(Count(["a"], n + 1))
        await settled(app)
    shutil.copytree(tmp_path, tmp_path / "copy")
    async with app_in(tmp_path) as app:
        for n in range(3):
            await app.send(Count(["a"], n + 1))
        await settled(app)
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    if request.param == "gone":
        write_store = await open_write_store(f"sqlite:///{tmp_path}/log.db", app_in(tmp_path).settings, RealWorld())
        await write_store.close()
        return 0
    for file in (tmp_path / "copy").glob("log.db*"):
        shutil.copy(file, tmp_path)
    return 2


@pytest.mark.parametrize("keys", [None, ["a"]])
async def test_an_audit_and_a_comparison_say_both_positions(tmp_path: Path, head: int, keys: list[str] | None) -> None:
    app = app_in(tmp_path)
    write_store = await open_write_store(app.settings.write_store, app.settings, app.world)
    read_store = await open_read_store(app.settings.read_store, app.world)
    try:
        if head:
            # Without its log, nothing says which generation serves.
            with pytest.raises(WiringError, match=SAID.format(head=head)):
                await audit(app, write_store, read_store, "totals", keys=keys)
        with pytest.raises(WiringError, match=SAID.format(head=head)):
            await compare(write_store, read_store, "totals", 1, 1, app.world)
    finally:
        await read_store.close()
        await write_store.close()


async def test_the_refusal_of_commands_and_the_report_of_the_stores_say_them_too(tmp_path: Path, head: int) -> None:
    app = app_in(tmp_path)
    async with app:
        with pytest.raises(ForkedHistory, match=SAID.format(head=head)):
            await app.send(Count(["a"], 1))
        assert (await app.status()).health.command_side == "not_ready"
    write_store = await open_write_store(app.settings.write_store, app.settings, app.world)
    read_store = await open_read_store(app.settings.read_store, app.world)
    try:
        reader = StoreReader(app, write_store, read_store, app.world, app.settings, lag_seconds=30.0)
        overview = await anext(reader.overviews())
        (follower,) = overview.followers
        assert follower.state == "stopped"
        assert follower.error is not None
        assert "restore the log from a backup first" in follower.error
    finally:
        await read_store.close()
        await write_store.close()
