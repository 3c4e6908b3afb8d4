"""Parked keys and blocked partitions are reported everywhere, and the node goes on."""

from typing import Any

import httpx
import pytest

from tests.http.test_metrics import Series, of, scrape
from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up
from tests.synchronization.cluster_helpers import shares
from tests.synchronization.liveness_helpers import (
    STALL,
    TOTALS,
    asked,
    caught_up,
    counters,
    follower,
    hanging,
    level,
    only_reported,
    problems,
)
from twofold.app import App
from twofold.health import FollowerStatus


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13 and counter == "bad":
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


async def told_by(app: App, http: httpx.AsyncClient) -> tuple[FollowerStatus, dict[str, Any], dict[str, Any], Series]:
    everything = (await http.get("/status")).json()
    one = (await http.get("/projections/totals")).json()["follower"]
    (same,) = [each for each in everything["followers"] if each["name"] == "totals"]
    return await follower(app), one, same, await scrape(http)


async def test_a_parked_key_is_shown_everywhere_and_the_others_stay_ready() -> None:
    async with counters(fold=poisoned) as app, asked(app) as http:
        for by in (1, 13, 2, 3):
            await app.send(Count(["bad", "good"], by))
        await until(lambda: caught_up(app), "caught up")
        status, one, same, series = await told_by(app, http)
        (aside,) = status.parked
        assert (aside.key, aside.position, aside.waiting) == ("bad", 2, 2)
        for reported in (one, same):
            (shown,) = reported["parked"]
            assert (shown["key"], shown["position"], shown["waiting"]) == ("bad", 2, 2)
            assert "thirteen" in shown["error"]
        assert of(series, "follower_parked_keys", **TOTALS) == 1
        assert of(series, "follower_waiting_events", **TOTALS) == 2
        assert await level(http) == "degraded"


async def test_a_halted_partition_is_shown_everywhere_and_the_node_is_degraded() -> None:
    settings = {"stall_seconds": 600.0}
    async with counters(fold=poisoned, parks="partition", partitions=2, settings=settings) as app, asked(app) as http:
        for by in (1, 13, 2, 3):
            await app.send(Count(["bad", "good"], by))
        await until(lambda: halted(app), "halted")
        status, one, same, series = await told_by(app, http)
        (aside,) = status.parked
        assert (aside.key, aside.position) == ("bad", 2)
        assert (status.position, status.state, status.lag) == (1, "stopped", 3)
        for reported in (one, same):
            assert [each["key"] for each in reported["parked"]] == ["bad"]
            (stopped,) = [each for each in reported["partitions"] if each["state"] == "stopped"]
            assert (stopped["position"], "thirteen" in stopped["error"]) == (1, True)
        assert of(series, "follower_parked_keys", **TOTALS) == 1
        assert of(series, "partition_lag_events", name="totals", partition=stopped["partition"]) == 3
        answer = await http.get("/health/ready")
        (reason,) = [problem["message"] for problem in answer.json()["problems"]]
        assert reason.startswith(f"projection 'totals' ({stopped['partition']}) has stopped at position 1: ")
        assert "thirteen" in reason
        assert (answer.status_code, answer.json()["level"]) == (200, "degraded")


async def test_a_partition_that_does_not_move_is_reported_beside_one_that_is_halted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"stall_seconds": STALL}
    async with counters(fold=poisoned, parks="partition", partitions=2, settings=settings) as app:
        low, high = [share for share in sorted(shares(app)) if share.kind == "projection"]
        stands, stalls = (low, high) if low.partition.holds("bad") else (high, low)
        both = ["bad", next(key for key in map(str, range(99)) if stalls.partition.holds(key))]
        await app.send(Count(both, 1))
        await until(lambda: caught_up(app), "caught up")
        heal = hanging(app, stalls, monkeypatch)
        for by in (2, 13, 3):
            await app.send(Count(both, by))

        stopped = f"projection 'totals' ({stands.partition.name}) has stopped at position 2: "
        stalled = f"projection 'totals' ({stalls.partition.name}) has not moved from position 1 for "
        await until(lambda: only_reported(app, stopped, stalled), "both are reported")
        other, one = sorted(await problems(app))
        assert "thirteen" in one
        assert other.endswith("no error was reported")
        heal()


async def halted(app: App) -> bool:
    status = await follower(app)
    return status.state == "stopped" and bool(status.parked)
