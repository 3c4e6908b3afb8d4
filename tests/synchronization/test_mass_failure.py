"""A fold that fails for very many keys stops its projection, which keeps its place and goes on once it is fixed."""

from pathlib import Path
from typing import Any

import pytest

from tests.http.test_health import codes, everywhere
from tests.sample_domains.counter_app_helpers import app_in, folded, settled, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up, counters
from tests.synchronization.liveness_helpers import asked, follower
from twofold.app import App

KEYS = 20


class Bug:
    """A fold that fails for most keys until it is fixed."""

    def __init__(self) -> None:
        self.there = True

    def fold(self, row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if self.there and not counter.startswith("good"):
            raise KeyError("no such region")
        return add_up(row, event, counter)


def broken(bug: Bug, **given: Any) -> Any:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        return bug.fold(row, event, counter)

    return counters(fold, **given)


def app_with(folder: Path, bug: Bug, **settings: Any) -> App:
    return app_in(folder, broken(bug), **({"fold_retries": 0, "breaker_keys": KEYS} | settings))


async def fill(app: App, names: list[str]) -> None:
    for name in names:
        await app.send(Count([name]))


async def stopped(app: App) -> bool:
    return "stopped" in codes((await app.status()).health)


ALL = [f"k{n:03}" for n in range(100)]
MOST = [f"good{n}" if n % 5 == 0 else f"k{n:03}" for n in range(100)]


@pytest.mark.parametrize(("names", "why"), [(ALL, "20 keys in a row"), (MOST, "of the last 21 keys")])
async def test_a_projection_that_fails_for_very_many_keys_stops_and_keeps_its_place(
    tmp_path: Path, names: list[str], why: str
) -> None:
    bug = Bug()
    async with app_with(tmp_path, bug) as app, asked(app) as http:
        await fill(app, names)
        await until(lambda: stopped(app), "stopped")
        report = await everywhere(app, http)
        assert (report.query_side, codes(report)) == ("degraded", ["stopped", "parked"])
        assert f"{why} could not be folded. The last one: KeyError: 'no such region'" in report.problems[0].message
        status = await follower(app)
        assert status.state == "stopped"
        assert status.position < 30
        assert status.parked_count <= KEYS + 1, "no more keys are parked, however many there are"
        assert len((await http.get("/status")).content) < 20_000


@pytest.mark.parametrize("how", ["restart", "retry"])
async def test_once_the_fold_is_fixed_it_goes_on_where_it_stopped(tmp_path: Path, how: str) -> None:
    bug = Bug()
    async with app_with(tmp_path, bug) as app:
        await fill(app, ALL)
        await until(lambda: stopped(app), "stopped")
        bug.there = False
        if how == "retry":
            (blocking,) = [key for key in await app.projections.parked("totals") if key.position > KEYS]
            await app.projections.retry("totals", blocking.key)

            async def caught_up() -> bool:
                return (await follower(app)).position == len(ALL)

            await until(caught_up, "caught up")
            assert (await follower(app)).parked_count == KEYS, "keys that were parked before wait for a retry of theirs"
            for key in await app.projections.parked("totals"):
                await app.projections.retry("totals", key.key)
            assert await settled(app) == await folded(app)
            return
    async with app_with(tmp_path, bug) as app:

        async def ready() -> bool:
            return (await app.status()).health.level == "ready"

        await until(ready, "ready again")
        assert await settled(app) == await folded(app)


async def test_a_restart_without_a_fix_stops_again(tmp_path: Path) -> None:
    bug = Bug()
    for parked in (KEYS, 2 * KEYS):
        async with app_with(tmp_path, bug) as app:
            if parked == KEYS:
                await fill(app, ALL)
            await until(lambda: stopped(app), "stopped")
            assert (await follower(app)).parked_count == parked + 1


async def test_a_skip_passes_the_one_event_and_the_next_one_stops_it_again(tmp_path: Path) -> None:
    async with app_with(tmp_path, Bug()) as app:
        await fill(app, ALL)
        await until(lambda: stopped(app), "stopped")
        (blocking,) = [key for key in await app.projections.parked("totals") if key.position > KEYS]
        await app.projections.skip("totals", blocking.key)

        async def moved() -> bool:
            status = await follower(app)
            return status.position == blocking.position and status.state == "stopped"

        await until(moved, "stopped at the next event")


async def test_without_a_breaker_all_keys_are_parked(tmp_path: Path) -> None:
    async with app_with(tmp_path, Bug(), breaker_keys=0) as app:
        await fill(app, ALL)

        async def parked() -> bool:
            return (await follower(app)).parked_count == len(ALL)

        await until(parked, "parked")
