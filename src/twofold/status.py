"""The status of an app: measured from the log and the checkpoints, and judged by `twofold.health`."""

import importlib.metadata
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.follower_status import build_status, follower_status, partition_status
from twofold.health import (
    SIDES,
    BuildStatus,
    FollowerStatus,
    HealthReport,
    Observation,
    PartitionStatus,
    Side,
    assess,
)
from twofold.read_store.port import Checkpoint, Parked
from twofold.roles import Roles
from twofold.runtime import Runtime
from twofold.settings import Settings
from twofold.synchronization.follower import State
from twofold.synchronization.follower_kind import UnitProgress
from twofold.synchronization.policy_rows import RejectedCommand
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.port import Verifiable, WriteStore

T = TypeVar("T")

VERSION = importlib.metadata.version("twofold")

READ_SECONDS = 5.0
"""A store that does not answer for this long is reported as unavailable."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an app is doing. Counts are since start, `uptime` is in seconds, `node` is this process.

    `builds` are the generations that do not serve: being built, or on standby. If a store cannot be read, `followers`
    are those of this node, with what they have done so far. `version` is that of Twofold.
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
    version: str = VERSION


class Measured(NamedTuple):
    """One observation: the head of the log, what follows it, and the report on all of it."""

    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]
    health: HealthReport


class _Stores(NamedTuple):
    """What could be read of the stores; None for what could not, and why.

    If the log cannot be read, `progress` lacks the work units whose checkpoints are in the log.
    """

    head: Position | None
    checkpoints: Sequence[Checkpoint] | None
    progress: Mapping[WorkUnit, UnitProgress]
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
    handles = runtime.roles.handle_commands
    refusal = await runtime.write_check.refusal() if handles else None
    stores = await _read_stores(runtime, world)
    positions = _positions(runtime, stores)
    head = max(positions.values(), default=0) if stores.head is None else stores.head
    lags = {position: (max(0, head - position), 0.0) for position in positions.values()}
    unreadable = stores.log_unreadable
    if unreadable is None:
        lags, unreadable = await _bounded(world, _lags(runtime.write_store, list(lags), head, world), lags)
    parked = {unit: progress.parked for unit, progress in stores.progress.items()}
    units = {unit: _unit(runtime, unit, at, lags[at], parked.get(unit, ())) for unit, at in positions.items()}
    groups = _groups(units)
    rejected = {unit.name: progress.rejected for unit, progress in stores.progress.items()}
    followers = [
        _follower(runtime, group, units, parked, objectives, rejected)
        for group in groups
        if runtime.synchronization.serves(group[0])
    ]
    builds = _builds(runtime, stores.checkpoints or (), head)
    health = assess(
        Observation(
            sides=_sides(runtime.roles),
            followers=followers,
            builds=builds,
            head_at_start=runtime.head_at_start,
            serve_while_building=settings.serve_while_building,
            stall_seconds=settings.stall_seconds,
            log_stopped=runtime.write_store.problem,
            log_unreadable=unreadable,
            refusal=refusal,
            commands_refused=(runtime.commands.problem if handles else None) or runtime.history.problem,
            forked=runtime.history.problem,
            read_models_unreadable=stores.read_models_unreadable or _unknown_models(runtime),
            supervision=runtime.synchronization.problem,
            log_damaged=log.damage.problem if isinstance(log := runtime.write_store.present, Verifiable) else None,
        )
    )
    return Measured(head, followers, builds, health)


def _sides(roles: Roles) -> Sequence[Side]:
    """The sides that a process serves. One that serves none reports on both, as it is for operators."""
    return [side for side in SIDES if side in roles] or SIDES


def _unknown_models(runtime: Runtime) -> str | None:
    """Which read models cannot be answered from yet, in a sentence; None if there are none."""
    names = ", ".join(f"'{name}'" for name, model in runtime.models.items() if not model.generation)
    if not names:
        return None
    return f"No generation of {names} is known yet. Start a process with the role `sync`, with the same read store."


async def _read_stores(runtime: Runtime, world: World) -> _Stores:
    synchronization = runtime.synchronization
    checkpoints, away = await _bounded(world, runtime.read_store.checkpoints(), None)
    progress = await synchronization.progress(checkpoints or (), log=False)
    head, unreadable = await _bounded(world, _head(runtime.write_store), None)
    if unreadable is None:
        progress, unreadable = await _bounded(world, synchronization.progress(checkpoints or ()), progress)
    return _Stores(head, checkpoints, progress, unreadable, away)


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
    positions = {unit: progress.position for unit, progress in stores.progress.items()}
    if stores.head is not None and stores.checkpoints is not None and stores.log_unreadable is None:
        runtime.synchronization.observe(stores.head, positions)
    workers = {unit: worker.position for unit, worker in runtime.synchronization.supervisor.workers.items()}
    if stores.checkpoints is None:
        positions = {unit: at for unit, at in positions.items() if unit.generation is None}
        positions |= {unit: at for unit, at in workers.items() if unit.generation is not None}
    if stores.log_unreadable is not None:
        positions |= {unit: at for unit, at in workers.items() if unit.generation is None}
    return positions


def _groups(units: Mapping[WorkUnit, PartitionStatus]) -> list[list[WorkUnit]]:
    """The work units of one policy, or of one generation of a projection, together."""
    groups: dict[tuple[str, int | None], list[WorkUnit]] = {}
    for unit in sorted(units):
        groups.setdefault((unit.name, unit.generation), []).append(unit)
    return sorted(groups.values(), key=lambda group: group[0].name)


def _unit(
    runtime: Runtime, unit: WorkUnit, position: Position, lag: tuple[int, float], parked: Sequence[Parked]
) -> PartitionStatus:
    worker = runtime.synchronization.supervisor.workers.get(unit)
    owner = runtime.synchronization.owner(unit)
    state: State = worker.state if worker is not None else "waiting" if owner is None else "on-another-node"
    return partition_status(
        unit.partition_name,
        position=position,
        lag=lag,
        state=state if runtime.synchronization.pause_of(unit.name) is None else "paused",
        owner=owner,
        stalled=runtime.synchronization.stalls.stalled(unit),
        error=worker.error if worker is not None else None,
        parked=parked if unit.partition is not None else (),
    )


def _follower(
    runtime: Runtime,
    group: Sequence[WorkUnit],
    units: Mapping[WorkUnit, PartitionStatus],
    parked: Mapping[WorkUnit, Sequence[Parked]],
    objectives: Mapping[str, float | None],
    rejected: Mapping[str, Sequence[RejectedCommand]],
) -> FollowerStatus:
    first, workers = group[0], runtime.synchronization.supervisor.workers
    return follower_status(
        first.name,
        first.kind,
        [units[unit] for unit in group],
        [key for unit in group for key in parked.get(unit, ())],
        generation=first.generation or 0,
        rate=sum(
            workers[unit].rate() if unit in workers else runtime.synchronization.stalls.rate(unit) for unit in group
        ),
        freshness=objectives.get(first.name),
        pause=runtime.synchronization.pause_of(first.name),
        outage=next((workers[unit].outage for unit in group if unit in workers), None),
        rejected=rejected.get(first.name, ()) if first.generation is None else (),
    )


def _builds(runtime: Runtime, checkpoints: Sequence[Checkpoint], head: Position) -> list[BuildStatus]:
    """The generations of this code that do not serve."""
    groups: dict[tuple[str, int], list[Checkpoint]] = {}
    for each in checkpoints:
        groups.setdefault((each.name, each.generation), []).append(each)
    synchronization = runtime.synchronization
    units = synchronization.units(checkpoints)
    builds: list[BuildStatus] = []
    for (name, generation), group in sorted(groups.items()):
        build = synchronization.state.generations(name).record.builds.get(generation)
        mine = [unit for unit in units if (unit.name, unit.generation) == (name, generation)]
        if build is None or build.state == "serving" or not mine:
            continue
        running = synchronization.supervisor.workers
        workers = [running[unit] for unit in mine if unit in running]
        errors = [error for worker in workers if (error := worker.error_of(name, generation)) is not None]
        owners = {synchronization.owner(unit) for unit in mine}
        builds.append(
            build_status(
                name,
                generation,
                version=build.version,
                state=build.state,
                partitions=[(each.progress.position, each.parked) for each in group],
                head=head,
                rate=min(synchronization.stalls.rate(unit) for unit in mine),
                owner=owners.pop() if len(owners) == 1 else None,
                error=next(iter(errors), synchronization.paused_because(name)),
            )
        )
    return builds
