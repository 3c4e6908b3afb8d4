"""The status of an app: measured from the log and the checkpoints, and judged by `twofold.health`."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.health import (
    BuildStatus,
    FollowerStatus,
    HealthReport,
    Observation,
    PartitionStatus,
    assess,
    build_status,
    follower_status,
    partition_status,
)
from twofold.read_store.port import Checkpoint, Parked
from twofold.runtime import Runtime
from twofold.settings import Settings
from twofold.synchronization.policy_storage import policy_checkpoints
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.port import WriteStore

T = TypeVar("T")

READ_SECONDS = 5.0
"""A store that does not answer for this long is reported as unavailable."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an app is doing. Counts are since start, `uptime` is in seconds, `node` is this process.

    `builds` are the generations that do not serve: being built, or on standby. If a store cannot be read, `followers`
    are those of this node, with what they have done so far.
    """

    log: str
    node: str
    head: Position
    commands: int
    rejected: int
    queries: int
    uptime: float
    health: HealthReport
    followers: list[FollowerStatus]
    builds: list[BuildStatus]


class Measured(NamedTuple):
    """One observation: the head of the log, what follows it, and the report on all of it."""

    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]
    health: HealthReport


_Policies = Mapping[str, tuple[Position, tuple[Parked, ...]]]


class _Stores(NamedTuple):
    """What could be read of the stores; None for what could not, and why."""

    head: Position | None
    checkpoints: Sequence[Checkpoint] | None
    policies: _Policies | None
    log_unreadable: str | None
    read_models_unreadable: str | None


async def lag_of(write_store: WriteStore, position: Position, head: Position, world: World) -> tuple[int, float]:
    """How far a follower is behind: in events, and as the age in seconds of the oldest event it has not taken."""
    lag = max(0, head - position)
    if not lag:
        return 0, 0.0
    oldest = (await write_store.read(ALL_EVENTS, position, 1)).events
    return lag, max(0.0, (world.now() - oldest[0].time).total_seconds()) if oldest else 0.0


async def measure(
    runtime: Runtime, world: World, objectives: Mapping[str, float | None], settings: Settings
) -> Measured:
    """Observe the stores and what follows the log, and judge it. Stores that cannot be read are part of the report."""
    refusal = await runtime.write_check.refusal()
    stores = await _read_stores(runtime, world)
    positions = _positions(runtime, stores)
    head = max(positions.values(), default=0) if stores.head is None else stores.head
    lags = {position: (max(0, head - position), 0.0) for position in positions.values()}
    unreadable = stores.log_unreadable
    if unreadable is None:
        lags, unreadable = await _bounded(world, _lags(runtime.write_store, list(lags), head, world), lags)
    parked = await _parked(runtime, stores)
    units = {unit: _unit(runtime, unit, at, lags[at], parked.get(unit, ())) for unit, at in positions.items()}
    groups = _groups(units)
    followers = [
        _follower(runtime, group, units, parked, objectives)
        for group in groups
        if group[0].kind == "policy" or runtime.serves(group[0])
    ]
    builds = _builds(runtime, stores.checkpoints or (), head)
    health = assess(
        Observation(
            followers=followers,
            builds=builds,
            head_at_start=runtime.head_at_start,
            serve_while_building=settings.serve_while_building,
            stall_seconds=settings.stall_seconds,
            log_stopped=runtime.write_store.problem,
            log_unreadable=unreadable,
            refusal=refusal,
            commands_refused=runtime.commands.problem,
            read_models_unreadable=stores.read_models_unreadable,
            supervision=runtime.supervisor.problem,
        )
    )
    return Measured(head, followers, builds, health)


async def _read_stores(runtime: Runtime, world: World) -> _Stores:
    log = runtime.write_store
    checkpoints, away = await _bounded(world, runtime.read_store.checkpoints(), None)
    policies: _Policies | None = None
    head, unreadable = await _bounded(world, _head(log), None)
    if unreadable is None:
        policies, unreadable = await _bounded(world, policy_checkpoints(log), None)
    return _Stores(head, checkpoints, policies, unreadable, away)


async def _bounded(world: World, reading: Awaitable[T], otherwise: T) -> tuple[T, str | None]:
    """What was read, and None; what is there otherwise, and why it could not be read in time."""
    try:
        return await world.within(READ_SECONDS, reading), None
    except Unavailable as error:
        return otherwise, str(error)
    except TimeoutError:
        return otherwise, f"The store does not answer within {READ_SECONDS:g} s."


async def _head(log: WriteStore) -> Position | None:
    return (await log.read(NO_EVENTS)).head


async def _lags(
    log: WriteStore, positions: Sequence[Position], head: Position, world: World
) -> dict[Position, tuple[int, float]]:
    return {position: await lag_of(log, position, head, world) for position in positions}


def _positions(runtime: Runtime, stores: _Stores) -> dict[WorkUnit, Position]:
    """The position of each work unit: by the stores, and where those cannot be read by the workers of this node."""
    positions = runtime.positions_in(stores.checkpoints or (), stores.policies or {})
    if stores.head is not None and stores.checkpoints is not None and stores.policies is not None:
        runtime.watch.observe(stores.head, positions)
    workers = {unit: worker.position for unit, worker in runtime.supervisor.workers.items()}
    if stores.checkpoints is None:
        positions = {unit: at for unit, at in positions.items() if unit.kind == "policy"}
        positions |= {unit: at for unit, at in workers.items() if unit.kind != "policy"}
    if stores.policies is None:
        positions |= {unit: at for unit, at in workers.items() if unit.kind == "policy"}
    return positions


async def _parked(runtime: Runtime, stores: _Stores) -> dict[WorkUnit, Sequence[Parked]]:
    """What is parked, by work unit."""
    parked: dict[WorkUnit, Sequence[Parked]] = {}
    for each in stores.checkpoints or ():
        parked[WorkUnit("projection", each.name, each.generation, each.partition)] = each.progress.parked
    parked |= {WorkUnit("policy", name): keys for name, (_, keys) in (stores.policies or {}).items()}
    for unit, worker in runtime.supervisor.workers.items():
        if unit.kind == "policy":
            # The worker knows, too, which due commands cannot be sent.
            parked[unit] = await worker.follower.parked()
    return parked


def _groups(units: Mapping[WorkUnit, PartitionStatus]) -> list[list[WorkUnit]]:
    """The work units of one policy, or of one generation of a projection, together."""
    groups: dict[tuple[str, int], list[WorkUnit]] = {}
    for unit in sorted(units):
        groups.setdefault((unit.name, unit.generation), []).append(unit)
    return [group for _, group in sorted(groups.items())]


def _unit(
    runtime: Runtime, unit: WorkUnit, position: Position, lag: tuple[int, float], parked: Sequence[Parked]
) -> PartitionStatus:
    worker = runtime.supervisor.workers.get(unit)
    owner = runtime.supervisor.owner(unit)
    return partition_status(
        unit.partition.name if unit.kind == "projection" else "",
        position=position,
        lag=lag,
        state=worker.state if worker is not None else "waiting" if owner is None else "on-another-node",
        owner=owner,
        stalled=runtime.watch.still(unit),
        error=worker.error if worker is not None else None,
        parked=parked if unit.kind == "projection" else (),
    )


def _follower(
    runtime: Runtime,
    group: Sequence[WorkUnit],
    units: Mapping[WorkUnit, PartitionStatus],
    parked: Mapping[WorkUnit, Sequence[Parked]],
    objectives: Mapping[str, float | None],
) -> FollowerStatus:
    first, workers = group[0], runtime.supervisor.workers
    return follower_status(
        first.name,
        first.kind,
        [units[unit] for unit in group],
        [key for unit in group for key in parked.get(unit, ())],
        generation=first.generation,
        rate=sum(workers[unit].rate() if unit in workers else runtime.watch.rate(unit) for unit in group),
        freshness=objectives.get(first.name),
    )


def _builds(runtime: Runtime, checkpoints: Sequence[Checkpoint], head: Position) -> list[BuildStatus]:
    """The generations of this code that do not serve."""
    groups: dict[tuple[str, int], list[Checkpoint]] = {}
    for each in checkpoints:
        groups.setdefault((each.name, each.generation), []).append(each)
    units = runtime.supervisor.shares(checkpoints)
    builds: list[BuildStatus] = []
    for (name, generation), group in sorted(groups.items()):
        build = runtime.supervisor.board.generations(name).record.builds.get(generation)
        mine = [unit for unit in units if (unit.name, unit.generation) == (name, generation)]
        if build is None or build.state == "serving" or not mine:
            continue
        workers = [runtime.supervisor.workers[unit] for unit in mine if unit in runtime.supervisor.workers]
        errors = [error for worker in workers if (error := worker.error_of(name, generation)) is not None]
        owners = {runtime.supervisor.owner(unit) for unit in mine}
        builds.append(
            build_status(
                name,
                generation,
                version=build.version,
                state=build.state,
                partitions=[(each.progress.position, each.progress.parked) for each in group],
                head=head,
                rate=min(runtime.watch.rate(unit) for unit in mine),
                owner=owners.pop() if len(owners) == 1 else None,
                error=next(iter(errors), None),
            )
        )
    return builds


async def parked_keys(runtime: Runtime, name: str) -> list[Parked]:
    """All that a policy, or the generation that serves of a projection, has parked."""
    checkpoints = await runtime.read_store.checkpoints()
    stores = _Stores(0, checkpoints, await policy_checkpoints(runtime.write_store), None, None)
    parked = await _parked(runtime, stores)
    return [
        key
        for unit, keys in parked.items()
        if unit.name == name and (unit.kind == "policy" or runtime.serves(unit))
        for key in keys
    ]
