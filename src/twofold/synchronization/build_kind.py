"""Builds as a kind of follower: a work unit for each new generation of a projection, until it serves."""

from collections.abc import Mapping, Sequence

import msgspec

from twofold.domain.events import Position
from twofold.read_store.port import Checkpoint
from twofold.synchronization.cluster_state import ClusterState
from twofold.synchronization.decoding import DecodedPage
from twofold.synchronization.follower import Skips
from twofold.synchronization.follower_kind import Team, UnitProgress, read_model_progress
from twofold.synchronization.projection_kind import ProjectionKind, projector_options
from twofold.synchronization.projector import Projector
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.port import RowWrite

_BULK_ROWS = 10
"""A build remembers this many times as many rows as other followers: it meets all of them, many of them often."""


class BuildKind:
    """The generations that are being built. One node builds all partitions of all of them in one pass over the log."""

    name = "build"
    one_worker = True

    def __init__(self, projections: ProjectionKind) -> None:
        self.versions: Mapping[str, int] = projections.versions
        self._projections = projections

    async def prepare(self, state: ClusterState) -> ClusterState:
        return state

    async def look(self, state: ClusterState | None, checkpoints: Sequence[Checkpoint]) -> None:
        return

    def units(self, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        builds = self._projections.builds(state)
        return [WorkUnit(self.name, name, number) for name, number, build in builds if build.state == "building"]

    async def progress(
        self, units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]
    ) -> dict[WorkUnit, UnitProgress]:
        return read_model_progress(units, checkpoints)

    def team(
        self, leases: Mapping[WorkUnit, int], checkpoints: Sequence[Checkpoint], skips: Mapping[str, Skips]
    ) -> Team:
        limits, io = self._projections.limits, self._projections.io
        decoded = DecodedPage(io.decode)
        options = projector_options(limits, limits.cached_rows * _BULK_ROWS)
        followers = {
            part: self._projections.projector(part, epoch, skips, io._replace(decode=decoded.decode), options)
            for unit, epoch in sorted(leases.items())
            for part in _partitions(unit, checkpoints)
        }
        page = min(self._projections.io.read_store.save_events, limits.catch_up_page_events)
        return Team(followers, page, page, decoded)

    async def skip(self, follower: Projector, key: str, at: Position, record: Sequence[RowWrite]) -> str | None:
        return await self._projections.skip(follower, key, at, record)


def _partitions(unit: WorkUnit, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
    """The partitions of a build, each as what one follower follows."""
    return [msgspec.structs.replace(unit, partition=at.partition) for at in checkpoints if unit.covers(at)]
