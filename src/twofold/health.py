"""Health of an app: what was measured of its stores and followers, judged once, for all who show it. No I/O."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import msgspec

from twofold.domain.events import Position
from twofold.read_store.partition import parked_event
from twofold.read_store.port import Parked
from twofold.synchronization.cluster_state import Pause
from twofold.synchronization.follower import State
from twofold.synchronization.outage import Outage
from twofold.synchronization.policy_rows import RejectedCommand

Level = Literal["not_ready", "degraded", "ready"]
"""`ready`: send requests. `degraded`: send requests, and an operator must act. `not_ready`: send no requests."""

Side = Literal["command", "query"]
SIDES: Sequence[Side] = get_args(Side)

LEVELS: Sequence[Level] = get_args(Level)

LAG_SECONDS = 30.0
"""A follower without an objective that is further behind than this is reported."""
_STOPPING = "This process is about to stop."
MAX_PROBLEMS_SHOWN = 20


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of a projection, or one policy. `owner` is the node that follows for it, None if none is known.

    `lag` counts events, `lag_seconds` is the age of the oldest event that is not yet taken, `stalled` the number of
    seconds without progress while behind. `blocking` counts the keys that a stopped partition waits for.
    """

    partition: str
    position: Position
    lag: int
    lag_seconds: float
    state: State
    owner: str | None
    stalled: float = 0.0
    blocking: int = 0
    error: str | None = None


class FollowerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One projection or policy, by its checkpoints in the stores. Position, lag and error are those of the partition
    that is furthest behind, `state` is the worst one; `rate` is in events per second.

    `parked` names the first parked keys; `parked_count` counts all of them, `waiting_events` the events behind them.
    `freshness` is the objective in seconds, None if none is declared or known. `pause` says why it is paused, None if
    it is not. `outage` says which events of a policy wait because what it calls is away, None if none do, or if another
    node runs it. `rejected` are the last commands of a policy that a rule rejected, the newest first.
    """

    name: str
    kind: str
    generation: int
    position: Position
    lag: int
    lag_seconds: float
    rate: float
    state: State
    error: str | None
    parked: tuple[Parked, ...]
    parked_count: int
    waiting_events: int
    freshness: float | None
    partitions: tuple[PartitionStatus, ...]
    pause: Pause | None = None
    outage: Outage | None = None
    rejected: tuple[RejectedCommand, ...] = ()

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self.pause is not None

    @property
    def away(self) -> bool:
        """Whether events of a policy wait because what it calls is away."""
        return self.outage is not None

    @property
    def stalled(self) -> float:
        """Seconds without progress of the partition that has made none for the longest time."""
        return max((partition.stalled for partition in self.partitions), default=0.0)

    @property
    def owner(self) -> str | None:
        """The node that follows for all partitions; None where there are several, or none is known."""
        owners = {partition.owner for partition in self.partitions}
        return owners.pop() if len(owners) == 1 else None


class BuildStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A generation beside the ones that serve this code. `seconds_left` is None if it cannot be estimated.

    `stopped` says that a partition waits before an event that fails, `error` why the generation does not go on.
    """

    name: str
    generation: int
    version: int
    state: Literal["building", "standby", "serving"]
    position: Position
    lag: int
    rate: float
    seconds_left: float | None
    owner: str | None
    parked: tuple[Parked, ...]
    parked_count: int
    stopped: bool
    error: str | None


class HealthProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong: `code` for programs, `message` for people. `subject` is the name of a projection or
    policy, or `write_store`, `read_store`, `node`."""

    code: str
    level: Level
    side: Side
    subject: str
    message: str


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """How an app is. `level` is the worse one of the two sides. A side that this process does not serve is null.

    `problems` are the first ones, the worst before the others; `problem_count` counts all of them.
    """

    level: Level
    command_side: Level | None
    query_side: Level | None
    problems: tuple[HealthProblem, ...] = ()
    problem_count: int = 0

    def of(self, side: Side | None) -> Level | None:
        """The level of one side, None if this process does not serve it; of both together for None."""
        return self.level if side is None else self.command_side if side == "command" else self.query_side


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Of what ought to work there is a sentence each that says why it does not; None if it does.

    `log_stopped`: the write store takes nothing more. `log_unreadable`: it cannot be read. `refusal`: it refused the
    last append. `commands_refused`: the command service takes none. `read_models_unreadable`: the read store cannot be
    read. `supervision`: nobody can see to the followers. `head_at_start` is the position that read models must have
    reached before they answer. `log_damaged`: what is known to be damaged. `forked`: which read model is of another
    history than the log, and does not answer. `sides` are those that this process serves.
    """

    sides: Sequence[Side] = SIDES
    followers: Sequence[FollowerStatus] = ()
    builds: Sequence[BuildStatus] = ()
    head_at_start: Position = 0
    serve_while_building: bool = False
    stall_seconds: float = 5.0
    lag_seconds: float = LAG_SECONDS
    log_stopped: str | None = None
    log_unreadable: str | None = None
    refusal: str | None = None
    commands_refused: str | None = None
    read_models_unreadable: str | None = None
    supervision: str | None = None
    log_damaged: str | None = None
    forked: str | None = None


def assess(seen: Observation) -> HealthReport:
    """The report on an observation: on the sides that this process serves."""
    return _report([*_of_stores(seen), *_of_followers(seen), *_of_builds(seen.builds)], seen.sides)


def stopping(report: HealthReport) -> HealthReport:
    """The report on a process that is about to stop: it is to get no more requests."""
    sides: list[Side] = [side for side in SIDES if report.of(side) is not None]
    first = [
        HealthProblem(code="stopping", level="not_ready", side=side, subject="node", message=_STOPPING)
        for side in sides
    ]
    count = report.problem_count + len(first)
    return msgspec.structs.replace(_report([*first, *report.problems], sides), problem_count=count)


def _report(found: Iterable[HealthProblem], sides: Sequence[Side]) -> HealthReport:
    problems = [problem for problem in found if problem.side in sides]

    def worst(side: Side | None) -> Level:
        levels: list[Level] = [problem.level for problem in problems if side in (None, problem.side)]
        return min([*levels, LEVELS[-1]], key=LEVELS.index)

    ordered = sorted(problems, key=lambda problem: LEVELS.index(problem.level))
    return HealthReport(
        level=worst(None),
        command_side=worst("command") if "command" in sides else None,
        query_side=worst("query") if "query" in sides else None,
        problems=tuple(ordered[:MAX_PROBLEMS_SHOWN]),
        problem_count=len(problems),
    )


def _of_stores(seen: Observation) -> Iterator[HealthProblem]:
    def problem(code: str, level: Level, side: Side, subject: str, message: str) -> HealthProblem:
        return HealthProblem(code=code, level=level, side=side, subject=subject, message=message)

    if seen.log_stopped is not None:
        yield problem("write-store-stopped", "not_ready", "command", "write_store", seen.log_stopped)
    elif seen.log_unreadable is not None:
        yield problem("write-store-unavailable", "not_ready", "command", "write_store", seen.log_unreadable)
    elif seen.refusal is not None:
        yield problem("write-store-refuses", "not_ready", "command", "write_store", seen.refusal)
    if seen.commands_refused is not None:
        yield problem("commands-refused", "not_ready", "command", "node", seen.commands_refused)
    if seen.forked is not None:
        yield problem("forked-history", "not_ready", "query", "read_store", seen.forked)
    if seen.read_models_unreadable is not None:
        yield problem("read-store-unavailable", "not_ready", "query", "read_store", seen.read_models_unreadable)
    if seen.log_unreadable is not None:
        # A log that has stopped may have lost events that read models hold: nothing can be answered for sure.
        level: Level = "degraded" if seen.log_stopped is None else "not_ready"
        yield problem("log-unreadable", level, "query", "write_store", f"Followers wait: {seen.log_unreadable}")
    if seen.log_damaged is not None:
        for side in SIDES:
            yield problem("log-damaged", "degraded", side, "write_store", seen.log_damaged)
    if seen.supervision is not None:
        yield problem("synchronization-fails", "degraded", "query", "node", seen.supervision)


def _of_followers(seen: Observation) -> Iterator[HealthProblem]:
    for follower in seen.followers:
        side: Side = "query" if follower.kind == "projection" else "command"
        for code, message in _complaints(follower, seen):
            level: Level = "not_ready" if code == "building" else "degraded"
            yield HealthProblem(code=code, level=level, side=side, subject=follower.name, message=message)


def _complaints(follower: FollowerStatus, seen: Observation) -> Iterator[tuple[str, str]]:
    """What is wrong with a follower: codes and messages. Each partition is judged by itself, so that none hides
    another."""
    what, quiet = f"{follower.kind} '{follower.name}'", True
    if follower.kind == "projection" and not seen.serve_while_building:
        # One that has stopped or is paused does not hold back the others for ever.
        building = [each.position for each in follower.partitions if each.state not in ("stopped", "paused")]
        position = min(building, default=seen.head_at_start)
        if position < seen.head_at_start:
            yield "building", f"{what} is being built: it is at position {position} of {seen.head_at_start}."
            quiet = False
    if follower.pause is not None:
        yield "paused", f"{what}, at position {follower.position}: {follower.pause.sentence}"
        quiet = False
    if follower.outage is not None and follower.pause is None:
        yield "outside-away", f"{what}, at position {follower.position}: {follower.outage.sentence}"
        quiet = False
    for partition in follower.partitions:
        which = f"{what} ({partition.partition})" if partition.partition and len(follower.partitions) > 1 else what
        if partition.state == "stopped":
            yield "stopped", f"{which} has stopped at position {partition.position}: {partition.error}"
            quiet = False
        elif _stalls(follower, partition, seen):
            yield (
                "stalled",
                f"{which} has not moved from position {partition.position} for {partition.stalled:.0f} s, "
                f"{_events(partition.lag)} behind: {partition.error or 'no error was reported'}",
            )
            quiet = False
    behind = f"{what} is {_events(follower.lag)} ({follower.lag_seconds:.1f} s) behind"
    if follower.freshness is not None and follower.lag_seconds > follower.freshness:
        yield "objective-missed", f"{behind}; its objective is {follower.freshness:g} s."
    elif quiet and follower.lag_seconds > seen.lag_seconds:
        yield "behind", f"{behind}: {follower.error or 'no error was reported'}"
    parked = follower.parked_count - sum(partition.blocking for partition in follower.partitions)
    if parked > 0:
        one = follower.parked[0]
        events = all(parked_event(each.key) for each in follower.parked)
        noun = "event" if events else "key"
        yield (
            "parked",
            f"{what} has {parked} parked {noun}{'' if parked == 1 else 's'}. Fix what fails, then retry or skip them. "
            f"The first is {one.key}: {one.error}",
        )


def _stalls(follower: FollowerStatus, partition: PartitionStatus, seen: Observation) -> bool:
    waits = partition.state == "paused" or follower.outage is not None
    return bool(partition.lag) and not waits and partition.stalled > seen.stall_seconds


def _events(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def _of_builds(builds: Sequence[BuildStatus]) -> Iterator[HealthProblem]:
    for build in builds:
        if build.state == "building" and build.stopped:
            text = (
                f"Generation {build.generation} of projection '{build.name}' has stopped at position {build.position}: "
                f"{build.error}. The generation that serves goes on."
            )
            yield HealthProblem(code="build-stopped", level="degraded", side="query", subject=build.name, message=text)
