"""One observation, one report: which problems there are, whose side they are on, and what level they make."""

from typing import Any

import msgspec
import pytest

from twofold.follower_status import build_status, follower_status, partition_status
from twofold.health import (
    MAX_PROBLEMS_SHOWN,
    BuildStatus,
    FollowerStatus,
    HealthReport,
    Level,
    Observation,
    PartitionStatus,
    assess,
    stopping,
)
from twofold.read_store.parked_summary import MAX_PARKED_SHOWN
from twofold.read_store.port import Parked
from twofold.synchronization.cluster_state import Pause

HEAD = 100


def partition(position: int = HEAD, **given: Any) -> PartitionStatus:
    lag = HEAD - position, given.pop("seconds", 1.0 if position < HEAD else 0.0)
    standard: dict[str, Any] = {"state": "up-to-date", "owner": "here"} | given
    return partition_status(standard.pop("name", "0-4096"), position=position, lag=lag, **standard)


def follower(
    *partitions: PartitionStatus,
    kind: str = "projection",
    parked: int = 0,
    freshness: float | None = None,
    pause: Pause | None = None,
) -> FollowerStatus:
    keys = [Parked(f"k{n}", 5, "KeyError: region", 0, waiting=2) for n in range(parked)]
    return follower_status("f", kind, partitions or [partition()], keys, freshness=freshness, pause=pause)


def build(*parked: Parked) -> BuildStatus:
    return build_status("f", 2, version=1, state="building", partitions=[(7, parked), (60, [])], head=HEAD)


PAUSE = Pause("The disk is being moved.", "ann", 0)
BLOCKING = [Parked("k", 61, "KeyError: region", 0)]
TABLE: dict[str, tuple[dict[str, Any], Level, Level, list[str]]] = {
    "nothing is wrong": ({}, "ready", "ready", []),
    "all followers are at the head": ({"followers": [follower(), follower(kind="policy")]}, "ready", "ready", []),
    "a little behind": ({"followers": [follower(partition(90))]}, "ready", "ready", []),
    "a key is parked": ({"followers": [follower(parked=1)]}, "ready", "degraded", ["parked"]),
    "an event of a policy is parked": (
        {"followers": [follower(parked=1, kind="policy")]},
        "degraded",
        "ready",
        ["parked"],
    ),
    "a projection is paused, and far behind": (
        {"followers": [follower(partition(1, state="paused", seconds=900.0, stalled=900.0), pause=PAUSE)]},
        "ready",
        "degraded",
        ["paused"],
    ),
    "a projection is paused while it is being built": (
        {"followers": [follower(partition(1, state="paused"), pause=PAUSE)], "head_at_start": HEAD},
        "ready",
        "degraded",
        ["paused"],
    ),
    "a policy is paused": (
        {"followers": [follower(partition(90, state="paused"), kind="policy", pause=PAUSE)]},
        "degraded",
        "ready",
        ["paused"],
    ),
    "a partition is blocked": (
        {"followers": [follower(partition(60, parked=BLOCKING), partition())]},
        "ready",
        "degraded",
        ["stopped"],
    ),
    "a worker has stopped": (
        {"followers": [follower(partition(60, state="stopped", error="OSError: no"), kind="policy")]},
        "degraded",
        "ready",
        ["stopped"],
    ),
    "stalled": ({"followers": [follower(partition(60, stalled=5.1))]}, "ready", "degraded", ["stalled"]),
    "not yet stalled": ({"followers": [follower(partition(60, stalled=4.9))]}, "ready", "ready", []),
    "two partitions, each with a problem": (
        {"followers": [follower(partition(60, stalled=6.0), partition(50, state="stopped", error="x"))]},
        "ready",
        "degraded",
        ["stalled", "stopped"],
    ),
    "an objective is missed": (
        {"followers": [follower(partition(60, seconds=2.1), freshness=2.0)]},
        "ready",
        "degraded",
        ["objective-missed"],
    ),
    "an objective is met": (
        {"followers": [follower(partition(60, seconds=2.0), freshness=2.0)]},
        "ready",
        "ready",
        [],
    ),
    "far behind": ({"followers": [follower(partition(60, seconds=31.0))]}, "ready", "degraded", ["behind"]),
    "a policy far behind": (
        {"followers": [follower(partition(60, seconds=31.0), kind="policy")]},
        "degraded",
        "ready",
        ["behind"],
    ),
    "a read model is being built": (
        {"followers": [follower(partition(60, seconds=31.0), partition())], "head_at_start": HEAD},
        "ready",
        "not_ready",
        ["building"],
    ),
    "behind, but further than the head at start": (
        {"followers": [follower(partition(60))], "head_at_start": 60},
        "ready",
        "ready",
        [],
    ),
    "being built, and to be served all the same": (
        {"followers": [follower(partition(60))], "head_at_start": HEAD, "serve_while_building": True},
        "ready",
        "ready",
        [],
    ),
    "a policy that is not yet at the head at start": (
        {"followers": [follower(partition(60), kind="policy")], "head_at_start": HEAD},
        "ready",
        "ready",
        [],
    ),
    "a blocked partition holds back no readiness": (
        {"followers": [follower(partition(60, parked=BLOCKING))], "head_at_start": HEAD},
        "ready",
        "degraded",
        ["stopped"],
    ),
    "a stalled partition does": (
        {"followers": [follower(partition(60, stalled=9.0))], "head_at_start": HEAD},
        "ready",
        "not_ready",
        ["building", "stalled"],
    ),
    "a rebuild has stopped": (
        {"builds": [build(BLOCKING[0])]},
        "ready",
        "degraded",
        ["build-stopped"],
    ),
    "a rebuild has parked keys": ({"builds": [build(Parked("k", 6, "KeyError: region", 0))]}, "ready", "ready", []),
    "the write store has stopped": (
        {"log_stopped": "The disk failed.", "refusal": "The disk failed."},
        "not_ready",
        "ready",
        ["write-store-stopped"],
    ),
    "the write store has stopped, and events are lost": (
        {"log_stopped": "The disk failed.", "log_unreadable": "Events are lost."},
        "not_ready",
        "not_ready",
        ["write-store-stopped", "log-unreadable"],
    ),
    "the write store cannot be reached": (
        {"log_unreadable": "No route to host.", "refusal": "No route to host."},
        "not_ready",
        "degraded",
        ["write-store-unavailable", "log-unreadable"],
    ),
    "the write store refuses": (
        {"refusal": "The disk is full.", "followers": [follower(parked=1)]},
        "not_ready",
        "degraded",
        ["write-store-refuses", "parked"],
    ),
    "commands are refused": (
        {"commands_refused": "An inline projection cannot be built."},
        "not_ready",
        "ready",
        ["commands-refused"],
    ),
    "the read store cannot be reached": (
        {"read_models_unreadable": "The file was deleted."},
        "ready",
        "not_ready",
        ["read-store-unavailable"],
    ),
    "nobody sees to the followers": (
        {"supervision": "ValueError: x"},
        "ready",
        "degraded",
        ["synchronization-fails"],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_an_observation_makes_one_report(name: str) -> None:
    given, command, query, codes = TABLE[name]
    report = assess(Observation(**given))
    assert (report.command_side, report.query_side) == (command, query)
    assert sorted(problem.code for problem in report.problems) == sorted(codes)
    assert report.problem_count == len(codes)
    levels = {command, query}
    assert report.level == next(level for level in ("not_ready", "degraded", "ready") if level in levels)
    assert (report.of(None), report.of("command"), report.of("query")) == (report.level, command, query)


def test_a_problem_says_what_where_and_why() -> None:
    (parked,) = assess(Observation(followers=[follower(parked=3)])).problems
    assert (parked.subject, parked.side, parked.level) == ("f", "query", "degraded")
    assert parked.message == (
        "projection 'f' has 3 parked keys. Fix what fails, then retry or skip them. The first is k0: KeyError: region"
    )
    stopped, stalled = assess(
        Observation(
            followers=[follower(partition(60, name="a", parked=BLOCKING), partition(99, name="b", stalled=7.0))]
        )
    ).problems
    assert stopped.message == "projection 'f' (a) has stopped at position 60: KeyError: region"
    assert stalled.message == (
        "projection 'f' (b) has not moved from position 99 for 7 s, 1 event behind: no error was reported"
    )


def test_lists_are_cut_and_counted() -> None:
    many = follower(parked=6_000)
    assert (len(many.parked), many.parked_count, many.waiting_events) == (MAX_PARKED_SHOWN, 6_000, 12_000)
    partitions = [partition(n, name=f"{n}", stalled=9.0) for n in range(90)]
    report = assess(Observation(followers=[follower(*partitions)], read_models_unreadable="gone"))
    assert (len(report.problems), report.problem_count) == (MAX_PROBLEMS_SHOWN, 91)
    assert report.problems[0].level == "not_ready"
    assert report.query_side == "not_ready"


def test_a_process_that_stops_gets_no_more_requests() -> None:
    report = stopping(assess(Observation(followers=[follower(parked=1)])))
    assert (report.level, report.command_side, report.query_side) == ("not_ready",) * 3
    assert [problem.code for problem in report.problems] == ["stopping", "stopping", "parked"]
    assert report.problem_count == 3


def test_a_report_is_one_json_object() -> None:
    report = assess(Observation(refusal="The disk is full."))
    assert msgspec.json.decode(msgspec.json.encode(report), type=HealthReport) == report
