"""One report of health: the app, /status, /health/ready, /metrics and `twofold projections` agree in every state."""

import asyncio
from pathlib import Path
from typing import Any, cast

import apsw
import asyncpg
import httpx
import msgspec
import pytest

from tests.http.test_metrics import of, scrape
from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up
from tests.servers.postgres import Postgres
from tests.synchronization.cluster_helpers import shares
from tests.synchronization.liveness_helpers import asked, caught_up, counters, hanging
from tests.write_store.disk_helpers import faulty_disk
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.cli.follower_reports import Overview, StoreReader
from twofold.cli.follower_reports import asked as asked_over_http
from twofold.cli.remote import Remote
from twofold.errors import Unavailable
from twofold.health import HealthReport, Level
from twofold.http import Api, asgi
from twofold.settings import Settings
from twofold.synchronization.projector import Projector
from twofold.world import RealWorld
from twofold.write_store.sqlite import SqliteWriteStore

LEVELS: dict[Level, int] = {"not_ready": 0, "degraded": 1, "ready": 2}


class Here:
    """Stands for a client of a running `serve`: it answers with what the app said."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def get(self, path: str) -> Any:
        assert path == "/status"
        return self._status


async def by_url(status: Any) -> Overview:
    return await anext(asked_over_http(cast("Remote", Here(status)), RealWorld()))


async def by_stores(app: App) -> Overview:
    running = app._running
    assert running is not None
    reader = StoreReader(None, running.write_store, running.read_store, app.world, app.settings, lag_seconds=30.0)
    return await anext(reader.overviews())


async def everywhere(app: App, http: httpx.AsyncClient, *, stores: bool = True) -> HealthReport:
    """The one report. AssertionError where two that show it do not agree."""
    answer = await http.get("/status")
    assert answer.status_code == 200
    status = answer.json()
    report = msgspec.convert(status["health"], HealthReport)
    levels = (report.level, report.command_side, report.query_side)
    own = (await app.status()).health
    assert (own.level, own.command_side, own.query_side) == levels
    for side, level in zip(("", "?side=command", "?side=query"), levels, strict=True):
        ready = await http.get(f"/health/ready{side}")
        assert ready.status_code == (503 if level == "not_ready" else 200)
        body = ready.json()
        assert (body["level"], body["command_side"], body["query_side"]) == levels
        assert body["problem_count"] == report.problem_count
    series = await scrape(http)
    assert of(series, "ready") == (report.level != "not_ready")
    assert of(series, "problems") == report.problem_count
    for side, level in (("command", report.command_side), ("query", report.query_side)):
        assert of(series, "health_level", side=side) == LEVELS[level]
    assert (await by_url(status)).health == report
    if stores:
        seen = (await by_stores(app)).health
        assert (seen.level, [each.code for each in seen.problems]) == (
            report.level,
            [each.code for each in report.problems],
        )
    return report


def codes(report: HealthReport) -> list[str]:
    return [problem.code for problem in report.problems]


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13 and counter.startswith("bad"):
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


async def test_an_app_where_nothing_is_wrong_is_ready() -> None:
    async with counters() as app, asked(app) as http:
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        report = await everywhere(app, http)
        assert (report.level, report.problem_count) == ("ready", 0)


async def test_parked_keys_degrade_the_query_side() -> None:
    async with counters(fold=poisoned) as app, asked(app) as http:
        await app.send(Count([f"bad{n}" for n in range(30)], 13))
        await until(lambda: caught_up(app), "caught up")
        report = await everywhere(app, http)
        assert (report.command_side, report.query_side, codes(report)) == ("ready", "degraded", ["parked"])
        follower = (await http.get("/projections/totals")).json()["follower"]
        assert (len(follower["parked"]), follower["parked_count"]) == (20, 30)
        more = (await http.get("/projections/totals/parked?limit=25")).json()
        assert (len(more["parked"]), more["count"]) == (25, 30)
        (one,) = (await http.get("/projections/totals/parked?key=bad29")).json()["parked"]
        assert one["key"] == "bad29"


async def test_a_blocked_partition_degrades_the_query_side() -> None:
    async with counters(fold=poisoned, parks="partition") as app, asked(app) as http:
        await app.send(Count(["bad"], 13))

        async def blocked() -> bool:
            return "stopped" in codes((await app.status()).health)

        await until(blocked, "blocked")
        report = await everywhere(app, http)
        assert (report.command_side, report.query_side, codes(report)) == ("ready", "degraded", ["stopped"])


async def test_a_stalled_follower_degrades_its_side(monkeypatch: pytest.MonkeyPatch) -> None:
    async with counters(settings={"stall_seconds": 0.3}) as app, asked(app) as http:
        unit = next(unit for unit in shares(app) if unit.name == "watch")
        go_on = hanging(app, unit, monkeypatch)
        await app.send(Count(["a"]))

        async def stalled() -> bool:
            return "stalled" in codes((await app.status()).health)

        await until(stalled, "stalled")
        report = await everywhere(app, http)
        assert (report.command_side, report.query_side, codes(report)) == ("degraded", "ready", ["stalled"])
        go_on()
        await until(lambda: caught_up(app), "caught up")
        assert (await everywhere(app, http)).level == "ready"


# -------------------------------------------------------------------------------------------------- the first build


@pytest.mark.parametrize("serve", [False, True])
async def test_a_node_is_not_ready_before_its_read_models_have_reached_the_head_at_its_start(
    tmp_path: Path, serve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"sqlite:///{tmp_path}/log.db"
    module = counters().wiring.modules[0]
    settings = Settings(poll_seconds=0.02, page_events=1, catch_up_page_events=1, serve_while_building=serve)
    async with App(module, write_store=where, read_store="memory:", settings=settings) as app:
        for _ in range(3):
            await app.send(Count(["a"]))
    go_on, apply = asyncio.Event(), Projector.apply

    async def held(projector: Projector, *given: Any) -> None:
        await go_on.wait()
        await apply(projector, *given)

    monkeypatch.setattr(Projector, "apply", held)
    async with App(module, write_store=where, read_store="memory:", settings=settings) as app, asked(app) as http:
        report = await everywhere(app, http, stores=False)
        assert (report.command_side, report.query_side) == ("ready", "ready" if serve else "not_ready")
        assert codes(report) == ([] if serve else ["building"])
        if not serve:
            assert report.problems[0].message == "projection 'totals' is being built: it is at position 0 of 3."
        go_on.set()
        await until(lambda: caught_up(app), "caught up")
        assert (await everywhere(app, http)).level == "ready"


# ---------------------------------------------------------------------------------- stores that are away, or refuse


async def test_a_read_store_that_is_away_makes_the_query_side_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with counters() as app, asked(app) as http:
        running = app._running
        assert running is not None

        async def away() -> Any:
            raise Unavailable("The read store is away.")

        monkeypatch.setattr(running.read_store, "checkpoints", away)
        report = await everywhere(app, http, stores=False)
        assert (report.command_side, report.query_side) == ("ready", "not_ready")
        assert (codes(report), report.problems[0].message) == (["read-store-unavailable"], "The read store is away.")
        status = (await http.get("/status")).json()
        assert [follower["name"] for follower in status["followers"]] == ["totals", "watch"]
        monkeypatch.undo()
        assert (await everywhere(app, http)).level == "ready"


async def test_a_full_disk_makes_the_command_side_not_ready_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_disk() as disk:

        async def opened(*_: object, **__: object) -> SqliteWriteStore:
            return SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)

        monkeypatch.setattr("twofold.role_stores.open_write_store", opened)
        async with counters() as app, asked(app) as http:
            await app.send(Count(["a"]))
            await until(lambda: caught_up(app), "caught up")
            assert (await everywhere(app, http)).level == "ready"
            disk.fail("write", apsw.SQLITE_FULL)
            with pytest.raises(Unavailable, match="full"):
                await app.send(Count(["a"]))
            report = await everywhere(app, http, stores=False)
            assert (report.command_side, report.query_side) == ("not_ready", "ready")
            assert codes(report) == ["write-store-refuses"]
            assert "full" in report.problems[0].message
            disk.repair()
            report = await everywhere(app, http)
            assert report.level == "ready", "found by a small write, without any command"
            assert (await app.send(Count(["a"]))).position == 2


async def test_a_full_disk_is_found_within_seconds_where_no_command_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_disk() as disk:

        async def opened(*_: object, **__: object) -> SqliteWriteStore:
            return SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)

        monkeypatch.setattr("twofold.role_stores.open_write_store", opened)
        async with counters() as app, asked(app) as http:
            disk.fail("write", apsw.SQLITE_FULL)

            async def refused() -> bool:
                return (await http.get("/health/ready?side=command")).status_code == 503

            async with asyncio.timeout(15):
                await until(refused, "found")
            assert (await http.get("/health/ready?side=query")).status_code == 200
            disk.repair()


async def test_a_head_row_held_locked_makes_the_command_side_not_ready(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    schema = url.rpartition("=")[2]
    module = counters().wiring.modules[0]
    settings = Settings(poll_seconds=0.02)
    async with App(module, write_store=url, read_store="memory:", settings=settings) as app, asked(app) as http:
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        assert (await everywhere(app, http)).level == "ready"
        holder = await asyncpg.connect(postgres.dsn)
        held = holder.transaction()
        await held.start()
        await holder.execute(f"select from {schema}.log_head for update")

        async def refused() -> bool:
            return (await http.get("/health/ready?side=command")).status_code == 503

        await until(refused, "found")
        report = msgspec.convert((await http.get("/status")).json()["health"], HealthReport)
        assert (report.command_side, "write-store-refuses" in codes(report)) == ("not_ready", True)
        assert report.query_side != "not_ready"
        await held.rollback()

        async def ready() -> bool:
            return (await http.get("/health/ready")).json()["level"] == "ready"

        await until(ready, "ready again")
        await holder.close()


async def test_a_process_that_is_about_to_stop_gets_no_more_requests() -> None:
    async with counters() as app:
        api = cast("Api", asgi(app))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as http:
            api.drain()
            status = (await http.get("/status")).json()
            assert (await http.get("/health/ready?side=query")).status_code == 503
            assert (status["health"]["level"], of(await scrape(http), "ready")) == ("not_ready", 0)


async def test_a_read_store_whose_file_is_deleted_makes_the_query_side_not_ready(tmp_path: Path) -> None:
    module = counters().wiring.modules[0]
    where = f"sqlite:///{tmp_path}/views.db"
    app = App(module, write_store="memory:", read_store=where, settings=Settings(poll_seconds=0.02))
    async with app, asked(app) as http:
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        assert (await everywhere(app, http)).level == "ready"
        for path in tmp_path.glob("views.db*"):
            path.unlink()

        async def noticed() -> bool:
            return (await http.get("/health/ready?side=query")).status_code == 503

        await until(noticed, "noticed")
        report = await everywhere(app, http, stores=False)
        assert (report.command_side, report.query_side) == ("ready", "not_ready")
        assert "deleted" in report.problems[0].message
