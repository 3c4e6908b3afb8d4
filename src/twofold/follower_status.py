"""Reports on followers and builds, put together from their partitions. No I/O."""

from collections.abc import Sequence
from typing import Literal, get_args

from twofold.domain.events import Position
from twofold.health import BuildStatus, FollowerStatus, PartitionStatus
from twofold.read_store.parked_summary import MAX_PARKED_SHOWN
from twofold.read_store.port import Parked
from twofold.synchronization.cluster_state import Pause
from twofold.synchronization.follower import State
from twofold.synchronization.outage import Outage
from twofold.synchronization.policy_rows import RejectedCommand

_WORST: Sequence[State] = get_args(State)


def partition_status(
    partition: str,
    *,
    position: Position,
    lag: tuple[int, float],
    state: State,
    owner: str | None,
    stalled: float = 0.0,
    error: str | None = None,
    parked: Sequence[Parked] = (),
) -> PartitionStatus:
    """How a partition is doing. It is stopped if a key is `parked` beyond its checkpoint: all others wait for that."""
    events, seconds = lag
    blocking = [each for each in parked if each.position > position]
    if blocking:
        state, error = "stopped", error or blocking[0].error
    return PartitionStatus(
        partition=partition,
        position=position,
        lag=events,
        lag_seconds=round(seconds, 3),
        state=state,
        owner=owner,
        stalled=round(stalled, 3) if events else 0.0,
        blocking=len(blocking),
        error=error,
    )


def follower_status(
    name: str,
    kind: str,
    partitions: Sequence[PartitionStatus],
    parked: Sequence[Parked],
    *,
    generation: int = 0,
    rate: float = 0.0,
    freshness: float | None = None,
    pause: Pause | None = None,
    outage: Outage | None = None,
    rejected: Sequence[RejectedCommand] = (),
) -> FollowerStatus:
    """How a follower is doing, put together from its partitions."""
    last = min(partitions, key=lambda partition: partition.position)
    worst = min(partitions, key=lambda partition: _WORST.index(partition.state))
    return FollowerStatus(
        name=name,
        kind=kind,
        generation=generation,
        position=last.position,
        lag=last.lag,
        lag_seconds=last.lag_seconds,
        rate=round(rate, 1),
        state=worst.state,
        error=worst.error or next((each.error for each in partitions if each.error is not None), None),
        parked=tuple(parked[:MAX_PARKED_SHOWN]),
        parked_count=len(parked),
        waiting_events=sum(each.waiting for each in parked),
        freshness=freshness,
        partitions=tuple(partitions),
        pause=pause,
        outage=outage,
        rejected=tuple(reversed(rejected))[:MAX_PARKED_SHOWN],
    )


def build_status(
    name: str,
    generation: int,
    *,
    version: int,
    state: Literal["building", "standby", "serving"],
    partitions: Sequence[tuple[Position, Sequence[Parked]]],
    head: Position,
    rate: float = 0.0,
    owner: str | None = None,
    error: str | None = None,
) -> BuildStatus:
    """How a generation is doing, given position and parked keys of each of its partitions."""
    position = min((position for position, _ in partitions), default=0)
    parked = [each for _, keys in partitions for each in keys]
    blocking = [each for position, keys in partitions for each in keys if each.position > position]
    if blocking and error is None:
        error = f"{blocking[0].key} fails at position {blocking[0].position}: {blocking[0].error}"
    lag = max(0, head - position)
    return BuildStatus(
        name=name,
        generation=generation,
        version=version,
        state=state,
        position=position,
        lag=lag,
        rate=round(rate, 1),
        seconds_left=0.0 if not lag else round(lag / rate, 1) if rate else None,
        owner=owner,
        parked=tuple(parked[:MAX_PARKED_SHOWN]),
        parked_count=len(parked),
        stopped=bool(blocking),
        error=error,
    )
