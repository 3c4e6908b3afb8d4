"""Policies as a kind of follower: one work unit each, with checkpoint and parked events in the write store."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from twofold.codec import EventCodec, MessageCodec
from twofold.domain.events import Position
from twofold.domain.policy import BoundPolicy
from twofold.read_store.port import Checkpoint
from twofold.signal import Signal
from twofold.synchronization.cluster_state import ClusterState
from twofold.synchronization.follower import Skips
from twofold.synchronization.follower_kind import FollowerLimits, Team, UnitProgress
from twofold.synchronization.follower_observer import UNOBSERVED, FollowerObserver
from twofold.synchronization.policy_rows import PolicyProgress, policy_progress
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender, Send
from twofold.synchronization.reaction_failures import RunnerLimits
from twofold.synchronization.reactor import Reactor, ReactorOptions
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.port import Append, Outcome, RowWrite, WriteStore


class CommandSide(NamedTuple):
    """How policies reach the command side: `send` handles a command, `append` writes rows with the next commit.

    `moved` fires whenever a checkpoint has moved. `observer` observes each event that is answered.
    """

    commands: Mapping[str, type]
    messages: MessageCodec
    send: Send
    append: Callable[[Append], Awaitable[Outcome]]
    moved: Signal
    observer: FollowerObserver = UNOBSERVED


class PolicyKind:
    """The policies of an app. All nodes share them, whatever read store a node has."""

    name = "policy"
    one_worker = False

    def __init__(
        self,
        policies: Mapping[str, BoundPolicy],
        write_store: WriteStore,
        events: EventCodec,
        command_side: CommandSide,
        world: World,
        limits: FollowerLimits,
    ) -> None:
        self.versions: Mapping[str, int] = dict.fromkeys(policies, 0)
        self._policies = policies
        self._write_store = write_store
        self._events = events
        self._command_side = command_side
        self._world = world
        self._limits = limits

    async def prepare(self, state: ClusterState) -> ClusterState:
        return state

    async def look(self, state: ClusterState | None, checkpoints: Sequence[Checkpoint]) -> None:
        return

    def units(self, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        return [WorkUnit(self.name, policy) for policy in self._policies]

    async def progress(
        self, units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]
    ) -> dict[WorkUnit, UnitProgress]:
        stored = await policy_progress(self._write_store)
        progress = {unit: stored.get(unit.name, PolicyProgress(0)) for unit in units}
        return {unit: UnitProgress(p.position, p.parked, p.rejected) for unit, p in progress.items()}

    def team(
        self, leases: Mapping[WorkUnit, int], checkpoints: Sequence[Checkpoint], skips: Mapping[str, Skips]
    ) -> Team:
        # The epochs of leases are not used: the owner row of a policy refuses an earlier owner.
        # Pages do not grow: each event of a page may be a command.
        page = self._limits.page_events
        return Team({unit: self._reactor(unit.name) for unit in leases}, page, page)

    async def skip(self, follower: Reactor, key: str, at: Position, record: Sequence[RowWrite]) -> str | None:
        await follower.skip(key, record)
        return None

    def _reactor(self, name: str) -> Reactor:
        commands, messages, send, append, moved, observer = self._command_side
        limits, world = self._limits, self._world
        runner = RunnerLimits(
            limits.policy_concurrency, limits.fold_retries, limits.policy_breaker_keys, limits.page_events
        )
        return Reactor(
            self._policies[name],
            PolicyStorage(name, self._write_store, append, world),
            self._events,
            CommandSender(name, commands, messages, send, limits.max_causation_depth, world),
            world,
            ReactorOptions(runner, limits.retry_parked, moved, observer),
        )
