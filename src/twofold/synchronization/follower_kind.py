"""The kinds of followers: what each kind implements. The rest of synchronization uses only these methods.

A new kind (for example a relay to a message broker) is one module with a class like `PolicyKind` whose follower is a
`WholeFollower`, one more entry in the list of kinds that `App` gives to `Synchronization`, and its names in
`Wiring.followers`. `twofold projections` reads the stores without the app: `StoreReader` needs to read its checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from twofold.domain.events import Position
from twofold.read_store.port import Checkpoint, Parked
from twofold.synchronization.cluster_state import ClusterState
from twofold.synchronization.decoding import DecodedPage
from twofold.synchronization.follower import Skips, WholeFollower
from twofold.synchronization.policy_rows import RejectedCommand
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.port import RowWrite

F = TypeVar("F", bound=WholeFollower, contravariant=True)


class FollowerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much followers take at a time, and how deep a policy may answer. `retry_parked`: whether they retry what is
    parked when they start."""

    page_events: int
    catch_up_page_events: int
    cached_rows: int
    breaker_keys: int
    breaker_share: float
    max_causation_depth: int
    policy_concurrency: int = 64
    policy_breaker_keys: int = 5
    fold_retries: int = 3
    retry_parked: bool = True


class UnitProgress(NamedTuple):
    """How far a work unit has come, what is parked, and which commands were rejected, by what the stores hold."""

    position: Position
    parked: tuple[Parked, ...] = ()
    rejected: tuple[RejectedCommand, ...] = ()


class Team(NamedTuple):
    """Followers that one worker runs, in one pass over the log. A page has at most `page` events near the head.

    Far behind the head a page grows up to `catch_up_page` events. `decoded` is what they decode together.
    """

    followers: Mapping[WorkUnit, WholeFollower]
    page: int
    catch_up_page: int
    decoded: DecodedPage | None = None


class FollowerKind(Protocol[F]):
    """One kind of follower. `versions` holds what this node can follow: by name the version of its code, or 0.

    A version of 0 says that there is no read model. If `one_worker` is set, one worker runs all units of this kind.
    """

    name: str
    versions: Mapping[str, int]
    one_worker: bool

    async def prepare(self, state: ClusterState) -> ClusterState:
        """Create what has to be there before units are followed. The cluster state after that."""
        ...

    async def look(self, state: ClusterState | None, checkpoints: Sequence[Checkpoint]) -> None:
        """Note what there is by now, in a process that follows nothing. `state` is None if it cannot be read."""
        ...

    def units(self, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        """What there is to follow, on this node or another."""
        ...

    async def progress(
        self, units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]
    ) -> dict[WorkUnit, UnitProgress]:
        """How far these units of this kind have come."""
        ...

    def team(
        self, leases: Mapping[WorkUnit, int], checkpoints: Sequence[Checkpoint], skips: Mapping[str, Skips]
    ) -> Team:
        """Followers for units, under the epochs of their leases. `skips` are the events to skip, by name."""
        ...

    async def skip(self, follower: F, key: str, at: Position, record: Sequence[RowWrite]) -> str | None:
        """Skip the event that a key is parked at, and write `record` in the same commit; `at` is the checkpoint.

        None if that is done. Otherwise a sentence that says why there is nothing to skip any more.
        """
        ...


def read_model_progress(units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]) -> dict[WorkUnit, UnitProgress]:
    """How far units have come whose checkpoints are in the read store: the lowest of those they cover."""
    by_generation: dict[tuple[str, int | None], list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        by_generation.setdefault((checkpoint.name, checkpoint.generation), []).append(checkpoint)
    progress: dict[WorkUnit, UnitProgress] = {}
    for unit in units:
        mine = [c for c in by_generation.get((unit.name, unit.generation), ()) if unit.covers(c)]
        position = min((each.progress.position for each in mine), default=0)
        progress[unit] = UnitProgress(position, tuple(parked for each in mine for parked in each.parked))
    return progress
