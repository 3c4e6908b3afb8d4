"""In charge of the parts of a started app: command side, followers, and the look of an eye on both."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.command_service import CommandService
from twofold.command_service.batcher import Batcher
from twofold.command_service.folds import Folds
from twofold.command_service.inline_projections import InlineProjections
from twofold.command_service.write_check import WriteCheck
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.domain.module import Wiring
from twofold.read_store.port import Checkpoint, Parked, ReadModel, ReadStore
from twofold.settings import Settings
from twofold.signal import Signal
from twofold.synchronization.builds import Builds
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore
from twofold.synchronization.decoding import memo
from twofold.synchronization.follower import Skips, WholeFollower
from twofold.synchronization.policy_storage import PolicyStorage, policy_checkpoints
from twofold.synchronization.projector import Projector
from twofold.synchronization.reaction import CommandSender, Send
from twofold.synchronization.reactor import Reactor
from twofold.synchronization.requests import Requests
from twofold.synchronization.stall_detector import StallDetector
from twofold.synchronization.supervisor import Supervisor
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker
from twofold.world import World
from twofold.write_store.port import Append, Outcome, WriteStore

_BULK_ROWS = 10
"""A build remembers so many times as many rows as a follower: it meets all of them, and often again."""


class Plans(NamedTuple):
    """What an app is made of before it runs. `models` is kept up to date: which generation of each one serves."""

    wiring: Wiring
    events: EventCodec
    messages: MessageCodec
    models: dict[str, ReadModel]
    settings: Settings
    world: World
    send: Send
    moved: Signal


class Runtime:
    """The parts of a started app. `only` names what to follow for a visit; None follows for all of it."""

    def __init__(
        self, plans: Plans, write_store: WriteStore, read_store: ReadStore, *, only: frozenset[str] | None = None
    ) -> None:
        settings, world = plans.settings, plans.world
        self.write_store = write_store
        self.read_store = read_store
        self.watch = StallDetector(world)
        self._visit = only is not None
        self._models = plans.models
        folds = Folds(write_store, plans.events, settings.cached_folds)
        self.batcher = Batcher(
            write_store,
            folds,
            world,
            commands=settings.batch_commands,
            size=settings.batch_bytes,
            queue=settings.queue_commands,
        )
        self.commands = CommandService(
            plans.wiring,
            folds,
            plans.events,
            plans.messages,
            self.batcher,
            world,
            InlineProjections(plans.wiring, write_store, plans.events, self.batcher, settings.cached_rows),
            retries=settings.conflict_retries,
        )
        self.write_check = WriteCheck(write_store, self.batcher, world)
        self.head_at_start: Position = 0
        versions = {name: plans.wiring.projections[name].version for name in plans.models}
        self.cluster = ClusterStateStore(write_store, self.append, world, read_store.identity)
        self.builds = Builds(self.cluster, read_store, world, versions)
        self.supervisor = Supervisor(
            self.cluster,
            read_store,
            world,
            _Crew(plans, write_store, read_store, self.append, retry_parked=only is None),
            versions,
            list(plans.wiring.policies),
            name=world.place(),
            lease_seconds=settings.lease_seconds,
            exclusive=write_store.exclusive,
            served=self._served,
            looked=self._looked,
            only=only,
        )
        self._requests = Requests(self.cluster, self.supervisor, write_store, read_store, plans.world)

    @property
    def workers(self) -> list[Worker]:
        """What runs on this node, each once."""
        return list(dict.fromkeys(self.supervisor.workers.values()))

    async def append(self, append: Append) -> Outcome:
        """Write what follows from no command, in one commit with the commands that wait."""
        return await self.batcher.append(append, ())

    async def start(self) -> None:
        self.batcher.start()
        self.head_at_start = (await self.write_store.read(NO_EVENTS)).head
        await self.commands.start(visit=self._visit)
        await self.supervisor.start()

    async def stop(self) -> None:
        # Whatever fails or is cancelled on the way: the rest is stopped, and files and locks are given back.
        async with AsyncExitStack() as rest:
            for stop in (self.write_store.close, self.read_store.close, self.batcher.stop, self.supervisor.stop):
                rest.push_async_callback(stop)
            await self._requests.stop()

    def serves(self, share: WorkUnit) -> bool:
        """Whether answers rest on a share."""
        return share.kind == "projection" and self._models[share.name].generation == share.generation

    async def positions(self, checkpoints: Sequence[Checkpoint]) -> dict[WorkUnit, Position]:
        """The position of each work unit that is to be followed for, by what the stores keep."""
        return self.positions_in(checkpoints, await policy_checkpoints(self.write_store))

    def positions_in(
        self, checkpoints: Sequence[Checkpoint], policies: Mapping[str, tuple[Position, tuple[Parked, ...]]]
    ) -> dict[WorkUnit, Position]:
        """The position of each work unit that is to be followed for, given all checkpoints."""
        at = {
            WorkUnit("projection", each.name, each.generation, each.partition): each.progress.position
            for each in checkpoints
        }
        positions: dict[WorkUnit, Position] = {}
        for unit in self.supervisor.shares(checkpoints):
            if unit.kind == "policy":
                positions[unit] = policies[unit.name][0] if unit.name in policies else 0
            elif unit.kind == "projection":
                positions[unit] = at.get(unit, 0)
            else:
                built = [p for each, p in at.items() if (each.name, each.generation) == (unit.name, unit.generation)]
                positions[unit] = min(built, default=0)
        return positions

    def _served(self, name: str, generation: int) -> None:
        self._models[name] = msgspec.structs.replace(self._models[name], generation=generation)

    async def _looked(self, board: ClusterState, checkpoints: Sequence[Checkpoint]) -> None:
        self._requests.look(board, checkpoints)
        head = (await self.write_store.read(NO_EVENTS)).head
        self.watch.observe(head, await self.positions(checkpoints))


class _Crew:
    """Makes the followers of a node."""

    def __init__(
        self,
        plans: Plans,
        write_store: WriteStore,
        read_store: ReadStore,
        append: Callable[[Append], Awaitable[Outcome]],
        *,
        retry_parked: bool,
    ) -> None:
        self._plans = plans
        # A visitor came for one thing: what is set aside is no business of his.
        self._retry_parked = retry_parked
        self._write_store = write_store
        self._read_store = read_store
        self._append = append

    def worker(
        self, shares: Mapping[WorkUnit, int], skips: Mapping[str, Skips], held: Callable[[], bool], *, bulk: bool
    ) -> Worker:
        settings = self._plans.settings
        decode, begin = memo(self._plans.events.decode) if bulk else (self._plans.events.decode, None)
        rows = settings.cached_rows * _BULK_ROWS if bulk else settings.cached_rows
        followers = [
            self._reactor(share)
            if share.kind == "policy"
            else self._projector(share, epoch, decode, skips.get(share.name, frozenset()), rows)
            for share, epoch in shares.items()
        ]
        return Worker(
            followers,
            self._write_store,
            self._plans.world,
            page=settings.catch_up_page_events if bulk else settings.page_events,
            # Policies take small pages always: a page of theirs is as many commands.
            most=0 if any(share.kind == "policy" for share in shares) else settings.catch_up_page_events,
            poll=settings.poll_seconds,
            retries=settings.fold_retries,
            moved=self._plans.moved.fire,
            held=held,
            begin=begin,
        )

    def model(self, name: str, generation: int) -> ReadModel:
        return msgspec.structs.replace(self._plans.models[name], generation=generation)

    def _projector(
        self, share: WorkUnit, epoch: int, decode: Callable[..., Any], skips: Skips, rows: int
    ) -> WholeFollower:
        return Projector(
            self._plans.wiring.projections[share.name],
            self.model(share.name, share.generation),
            self._write_store,
            self._read_store,
            decode,
            self._plans.world,
            partition=share.partition,
            epoch=epoch,
            skips=skips,
            cached_rows=rows,
            retry_parked=self._retry_parked,
        )

    def _reactor(self, share: WorkUnit) -> WholeFollower:
        plans = self._plans
        return Reactor(
            plans.wiring.policies[share.name],
            PolicyStorage(share.name, self._write_store, self._append, plans.world),
            plans.events,
            CommandSender(share.name, plans.wiring.commands, plans.messages, plans.send),
            plans.world,
            retry_parked=self._retry_parked,
        )
