"""Projections as a kind of follower: a work unit for each partition of a generation that serves or is on standby."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import ForkedHistory, Unavailable
from twofold.read_store.port import Checkpoint, ReadModel
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, Generation
from twofold.synchronization.follower import Skips
from twofold.synchronization.follower_kind import FollowerLimits, Team, UnitProgress, read_model_progress
from twofold.synchronization.projector import Projector, ProjectorIO, ProjectorOptions
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.port import RowWrite, StampParts

log = logging.getLogger(__name__)


class ProjectionKind:
    """The projections of an app. Their checkpoints and parked keys are in the read store.

    `models` says which generation of each projection serves. It is changed as soon as another one serves.
    """

    name = "projection"
    one_worker = False

    def __init__(
        self,
        projections: Mapping[str, BoundProjection],
        models: dict[str, ReadModel],
        cluster: ClusterStateStore,
        io: ProjectorIO,
        limits: FollowerLimits,
    ) -> None:
        self.versions: Mapping[str, int] = {name: projections[name].version for name in models}
        self.limits = limits
        self.io = io
        self._projections = projections
        self._models = models
        self._cluster = cluster
        self._prepared: set[tuple[str, int]] = set()
        self._checked: dict[tuple[str, str], tuple[int, str, int]] = {}

    async def prepare(self, state: ClusterState) -> ClusterState:
        """Give each projection a generation that serves, and each generation its tables."""
        for name, version in self.versions.items():
            number = state.generations(name).record.find(version, "serving")
            if number is None:
                state, number = await self._begin(name, version)
            for generation in [n for at, n, _ in self.builds(state) if at == name and (at, n) not in self._prepared]:
                await self.io.read_store.prepare([self._model(name, generation)])
                self._prepared.add((name, generation))
            if self._models[name].generation != number:
                self._models[name] = self._model(name, number)
        return state

    async def look(self, state: ClusterState | None, checkpoints: Sequence[Checkpoint]) -> None:
        """Note which generation of each projection serves, and whether the log holds what it was made from.

        Without the cluster state, a projection of which none is known yet has the only one that is stored, if there is
        one only: the rows do not tell which version of the code made them.
        """
        for name, version in self.versions.items():
            if state is not None:
                number = state.generations(name).record.find(version, "serving")
            else:
                stored = {at.generation for at in checkpoints if at.name == name}
                number = stored.pop() if len(stored) == 1 and not self._models[name].generation else None
            if number is not None and self._models[name].generation != number:
                try:
                    await self.io.read_store.prepare([self._model(name, number)])
                except Unavailable as error:
                    log.info("Generation %s of '%s' cannot be read yet: %s", number, name, error)
                    continue
                self._models[name] = self._model(name, number)
        if state is not None:
            await self._check_history(checkpoints)

    async def _check_history(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Check each serving checkpoint that is seen for the first time, or in another epoch of the log than before."""
        for at in checkpoints:
            model, stamp = self._models.get(at.name), StampParts.of(at.progress.stamp)
            if model is None or model.generation != at.generation or stamp is None:
                continue
            place, seen = (at.name, at.partition.name), (at.generation, stamp.log, stamp.epoch)
            if self._checked.get(place) != seen:
                with suppress(ForkedHistory):
                    await self.io.history.check(at.name, at.progress.stamp, at.progress.position)
                self._checked[place] = seen

    def builds(self, state: ClusterState) -> Iterator[tuple[str, int, Generation]]:
        """The generations that this code can follow: name, number and record of each."""
        for name, version in self.versions.items():
            for number, build in sorted(state.generations(name).record.builds.items()):
                if build.version == version:
                    yield name, number, build

    def units(self, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        ready = {(name, number) for name, number, build in self.builds(state) if build.state != "building"}
        return [
            WorkUnit(self.name, at.name, at.generation, at.partition)
            for at in checkpoints
            if (at.name, at.generation) in ready
        ]

    async def progress(
        self, units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]
    ) -> dict[WorkUnit, UnitProgress]:
        return read_model_progress(units, checkpoints)

    def team(
        self, leases: Mapping[WorkUnit, int], checkpoints: Sequence[Checkpoint], skips: Mapping[str, Skips]
    ) -> Team:
        options = projector_options(self.limits, self.limits.cached_rows)
        followers = {unit: self.projector(unit, epoch, skips, self.io, options) for unit, epoch in leases.items()}
        most = self.io.read_store.save_events
        return Team(followers, min(most, self.limits.page_events), min(most, self.limits.catch_up_page_events))

    async def skip(self, follower: Projector, key: str, at: Position, record: Sequence[RowWrite]) -> str | None:
        """Put the skip on record. All nodes read that, and apply it to every generation of the same version.

        An event that can be folded by now is not skipped: the operator who asked for the skip saw an older state.
        """
        position = follower.parked_at(key)
        outcome = await follower.retry(key, at)
        if follower.parked_at(key) != position:
            return f"Nothing was skipped, because the event at {position} can be folded now. {outcome}"
        state = await self._cluster.read()
        if not await self._cluster.write(*record, self._cluster.skip(state.skips)):
            raise Unavailable("The request or the record of skips was changed by another node.")
        return None

    def projector(
        self, unit: WorkUnit, epoch: int, skips: Mapping[str, Skips], io: ProjectorIO, options: ProjectorOptions
    ) -> Projector:
        """The projector of a partition, under the epoch of its lease."""
        assert unit.generation is not None
        assert unit.partition is not None
        options = msgspec.structs.replace(options, skips=skips.get(unit.name, frozenset()))
        model = self._model(unit.name, unit.generation)
        return Projector(self._projections[unit.name], model, io, unit.partition, epoch, options)

    def _model(self, name: str, generation: int) -> ReadModel:
        return msgspec.structs.replace(self._models[name], generation=generation)

    async def _begin(self, name: str, version: int) -> tuple[ClusterState, int]:
        """Add a first generation of a new version. It serves from its first event on."""
        while True:
            state = await self._cluster.read()
            generations = state.generations(name)
            number = generations.record.find(version, "serving")
            if number is not None:
                return state, number
            number = generations.record.last + 1
            record = generations.record.with_changes({number: Generation(version, "serving", self._cluster.now())})
            await self._cluster.write(self._cluster.generations(name, record, generations.version))


def projector_options(limits: FollowerLimits, cached_rows: int) -> ProjectorOptions:
    """The options of projectors that keep this many rows in memory."""
    return ProjectorOptions(
        cached_rows=cached_rows,
        retry_parked=limits.retry_parked,
        breaker_keys=limits.breaker_keys,
        breaker_share=limits.breaker_share,
    )
