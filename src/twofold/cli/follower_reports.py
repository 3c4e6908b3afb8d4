"""Health as it is seen from outside: read from the two stores, or asked of a running `serve`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

import msgspec

from twofold.app import App
from twofold.cli.remote import Remote
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import ForkedHistory
from twofold.follower_status import build_status, follower_status, partition_status
from twofold.health import BuildStatus, FollowerStatus, HealthReport, Observation, PartitionStatus, assess
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import Checkpoint, Parked, ReadStore
from twofold.settings import Settings
from twofold.status import lag_of
from twofold.synchronization.cluster_state import ClusterState, Generation, Pause, read_cluster_state
from twofold.synchronization.follower import State
from twofold.synchronization.policy_rows import RejectedCommand, policy_progress
from twofold.synchronization.stall_detector import StallDetector
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.history import check_history, does_not_hold
from twofold.write_store.port import WriteStore

SAMPLE_SECONDS = 0.5
WATCH_SECONDS = 1.0


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The health of what follows one log."""

    log: str
    head: Position
    health: HealthReport
    followers: list[FollowerStatus]
    builds: list[BuildStatus]


_Key = tuple[str, int | None]
"""A name, and the generation; None for a policy."""


class _Part(NamedTuple):
    """One partition of a projection, or one policy, as the stores have it. `stamp` names the history it follows."""

    unit: WorkUnit
    position: Position
    stamp: str
    parked: Sequence[Parked]
    rejected: Sequence[RejectedCommand] = ()


class _Look(NamedTuple):
    """What was read of both stores at one moment. Policies have generation None."""

    head: Position
    cluster: ClusterState
    parts: dict[_Key, list[_Part]]

    def build(self, name: str, generation: int | None) -> Generation | None:
        """The record of a generation, if there is one."""
        return self.cluster.generations(name).record.builds.get(generation or 0)

    def pause(self, name: str) -> Pause | None:
        """Why a projection or policy is paused; None if it is not."""
        row = self.cluster.pauses.get(name)
        return None if row is None else row.record

    def owner(self, unit: WorkUnit) -> str | None:
        """The name of the node that has the lease of a work unit. Nodes are not recorded for a log with one writer."""
        node = self.cluster.nodes.get(self.cluster.lease(unit.lease_name).record.owner)
        return None if node is None else node.record.name


async def asked(remote: Remote, world: World) -> AsyncIterator[Overview]:
    """What a running `serve` reports, once a second."""
    while True:
        yield msgspec.convert(remote.get("/status"), Overview)
        await world.sleep(WATCH_SECONDS)


class StoreReader:
    """Reads what the stores say about all followers, or about those of an app. Whether the write store takes commands
    cannot be seen from here.

    `lag_seconds`: how far a follower without an objective may be behind.
    """

    def __init__(
        self,
        app: App | None,
        write_store: WriteStore,
        read_store: ReadStore,
        world: World,
        settings: Settings,
        *,
        lag_seconds: float,
    ) -> None:
        self._app = app
        self._write_store = write_store
        self._read_store = read_store
        self._world = world
        self._stall_seconds = settings.stall_seconds
        self._lag_seconds = lag_seconds
        self._detector = StallDetector(world)

    async def overviews(self) -> AsyncIterator[Overview]:
        """One overview after another: the first after a sample for the rates, then one each second.

        The first one takes as long as it takes to know of a follower that does not move whether it has stalled.
        """
        await self._look()
        pause = SAMPLE_SECONDS
        while True:
            await self._world.sleep(pause)
            overview = await self._overview(await self._look())
            while pause == SAMPLE_SECONDS and any(self._may_stall(each) for each in overview.followers):
                await self._world.sleep(pause)
                overview = await self._overview(await self._look())
            yield overview
            pause = WATCH_SECONDS

    def _may_stall(self, follower: FollowerStatus) -> bool:
        """Whether a follower did not move since the first look, which is not yet long enough ago."""
        return any(
            each.state == "waiting" and each.lag_seconds > self._stall_seconds >= each.stalled
            for each in follower.partitions
        )

    async def _look(self) -> _Look:
        cluster = await read_cluster_state(self._write_store, self._read_store.identity)
        parts: dict[_Key, list[_Part]] = {}
        for each in await self._read_store.checkpoints():
            unit = WorkUnit("projection", each.name, each.generation, each.partition)
            parts.setdefault((each.name, each.generation), []).append(_part(unit, each))
        for name, progress in (await policy_progress(self._write_store)).items():
            parts[name, None] = [
                _Part(WorkUnit("policy", name), progress.position, "", progress.parked, progress.rejected)
            ]
        if self._app is not None:
            models, policies = self._app.models, self._app.wiring.policies
            parts = {key: each for key, each in parts.items() if key[0] in (policies if key[1] is None else models)}
            for name in policies:
                parts.setdefault((name, None), [_Part(WorkUnit("policy", name), 0, "", ())])
        head = (await self._write_store.read(NO_EVENTS)).head
        running = [part for (name, _), group in parts.items() if name not in cluster.pauses for part in group]
        self._detector.observe(head, {part.unit: part.position for part in running})
        return _Look(head, cluster, parts)

    async def _overview(self, look: _Look) -> Overview:
        serving = self._serving(look)
        followers = [await self._follower(look, key) for _, key in sorted(serving.items())]
        followers.sort(key=lambda each: (each.kind == "policy", each.name))
        builds = [self._build(look, key, build) for key, build in _recorded(look) if key not in serving.values()]
        report = assess(
            Observation(
                followers=followers,
                builds=builds,
                stall_seconds=self._stall_seconds,
                lag_seconds=self._lag_seconds,
                log_stopped=self._write_store.problem,
            )
        )
        log = self._write_store.identity.log
        return Overview(log=log, head=look.head, health=report, followers=followers, builds=builds)

    def _serving(self, look: _Look) -> dict[str, _Key]:
        """By name the policy, or the generation that serves the version of the app (else the newest version)."""
        app = self._app
        versions = {} if app is None else {name: app.wiring.projections[name].version for name in app.models}
        known: list[tuple[str, int, int, _Key]] = []
        for key in look.parts:
            name, generation = key
            build = look.build(name, generation)
            # One without a record was built over another log: better than nothing.
            if generation is None or build is None or build.state == "serving":
                known.append((name, 0 if build is None else build.version, generation or 0, key))
        serving = {
            name: key
            for name, version, _, key in sorted(known, key=lambda each: each[:3])
            if version in (0, versions.get(name, version))
        }
        for name in versions.keys() - serving:
            serving[name] = key = name, 0
            look.parts.setdefault(key, [_Part(WorkUnit("projection", name, 0, WHOLE), 0, "", ())])
        return serving

    async def _follower(self, look: _Look, key: _Key) -> FollowerStatus:
        (name, generation), parts = key, look.parts[key]
        objective = None if self._app is None or generation is None else self._app.wiring.projections[name].freshness
        return follower_status(
            name,
            parts[0].unit.kind,
            [await self._partition(look, part) for part in parts],
            [key for part in parts for key in part.parked],
            generation=generation or 0,
            rate=sum(self._detector.rate(part.unit) for part in parts),
            freshness=objective,
            pause=look.pause(name),
            rejected=[command for part in parts for command in part.rejected],
        )

    async def _partition(self, look: _Look, part: _Part) -> PartitionStatus:
        lag = await lag_of(self._write_store, part.position, look.head, self._world)
        foreign = await self._does_not_hold(part)
        moves = self._detector.rate(part.unit) > 0
        state: State = "up-to-date" if not lag[0] else "catching-up" if moves else "waiting"
        if foreign or part.unit.name in look.cluster.pauses:
            state = "stopped" if foreign else "paused"
        return partition_status(
            part.unit.partition_name,
            position=part.position,
            lag=lag,
            state=state,
            owner=look.owner(part.unit),
            stalled=self._detector.stalled(part.unit),
            error=foreign,
            parked=part.parked if part.unit.partition is not None else (),
        )

    async def _does_not_hold(self, part: _Part) -> str | None:
        """Why the log does not hold the checkpoint of a partition; None if it does."""
        if part.stamp and part.position:
            try:
                await check_history(self._write_store, part.stamp, part.position)
            except ForkedHistory as error:
                return does_not_hold(part.unit.name, part.position, error)
        return None

    def _build(self, look: _Look, key: tuple[str, int], build: Generation) -> BuildStatus:
        name, generation = key
        parts = look.parts[key]
        owners = {look.owner(part.unit) for part in parts}
        owner = owners.pop() if len(owners) == 1 else None
        return build_status(
            name,
            generation,
            version=build.version,
            state=build.state,
            partitions=[(part.position, part.parked) for part in parts],
            head=look.head,
            rate=min(self._detector.rate(part.unit) for part in parts),
            owner=look.owner(WorkUnit("build", name, generation)) if build.state == "building" else owner,
            error=None if (pause := look.pause(name)) is None else pause.sentence,
        )


def _part(unit: WorkUnit, checkpoint: Checkpoint) -> _Part:
    progress = checkpoint.progress
    return _Part(unit, progress.position, progress.stamp, checkpoint.parked)


def _recorded(look: _Look) -> Iterator[tuple[tuple[str, int], Generation]]:
    """The generations of which a record says what they are."""
    for name, generation in sorted(look.parts, key=lambda key: (key[0], key[1] or 0)):
        build = look.build(name, generation)
        if generation is not None and build is not None:
            yield (name, generation), build
