"""The composition of a started app: the parts of both sides over the stores that were opened."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from twofold.codec import EventCodec, MessageCodec
from twofold.command_service import CommandService
from twofold.command_service.batcher import Batcher
from twofold.command_service.handle import CommandLimits
from twofold.command_service.inline_projections import InlineProjections
from twofold.command_service.snapshots import Snapshots
from twofold.command_service.write_check import WriteCheck
from twofold.domain.module import Wiring
from twofold.online_move import OnlineMove
from twofold.read_store.port import ReadModel, ReadStore
from twofold.roles import Roles
from twofold.runtime import Runtime
from twofold.settings import Settings
from twofold.signal import Signal
from twofold.synchronization.build_kind import BuildKind
from twofold.synchronization.cluster_state import ClusterStateStore
from twofold.synchronization.follower_kind import FollowerKind, FollowerLimits
from twofold.synchronization.policy_kind import CommandSide, PolicyKind
from twofold.synchronization.projection_kind import ProjectionKind
from twofold.synchronization.projector import ProjectorIO
from twofold.synchronization.service import NodeOptions, Synchronization
from twofold.synchronization.worker import WorkerLimits
from twofold.telemetry.counted_folds import CountedFolds
from twofold.telemetry.recorder import Telemetry
from twofold.world import World
from twofold.write_store.current_log import CurrentLog
from twofold.write_store.history import HistoryCheck


class Parts(NamedTuple):
    """What an app has before it is started, and what the running parts call.

    `models` has the generation of each projection that serves now, and changes. `moved` fires when a follower has made
    progress. `handle` handles a command that a policy sends; `log_moved` is called with the URL to which the log moved.
    `observer` observes what is done.
    """

    settings: Settings
    roles: Roles
    world: World
    wiring: Wiring
    messages: MessageCodec
    events: EventCodec
    models: dict[str, ReadModel]
    moved: Signal
    handle: Callable[..., Awaitable[Any]]
    log_moved: Callable[[str], Awaitable[None]]
    observer: Telemetry


def assemble(parts: Parts, write_store: CurrentLog, read_store: ReadStore, session: frozenset[str] | None) -> Runtime:
    """The parts over these stores, put together. `session` holds the names of a maintenance session."""
    settings, world, wiring, messages = parts.settings, parts.world, parts.wiring, parts.messages
    snapshots = Snapshots(write_store, wiring, world, settings.snapshot_events)
    folds = CountedFolds(write_store, parts.events, world, snapshots, settings.cached_folds)
    batcher = Batcher(
        write_store,
        folds,
        world,
        commands=settings.batch_commands,
        size=settings.batch_bytes,
        queue=settings.queue_commands,
        queue_size=settings.queue_bytes,
    )
    inline = InlineProjections(wiring, write_store, parts.events, settings.cached_rows)
    command_limits = CommandLimits(
        settings.conflict_retries, settings.command_events, settings.event_bytes, settings.command_bytes
    )
    commands = CommandService(
        wiring, folds, parts.events, messages, batcher, world, inline, write_store=write_store, limits=command_limits
    )
    commands.observer = batcher.observer = parts.observer
    # A maintenance session does one task. It leaves what is parked as it is.
    limits = _follower_limits(settings, retry_parked=session is None)
    command_side = CommandSide(wiring.commands, messages, parts.handle, batcher.append, parts.moved, parts.observer)
    cluster = ClusterStateStore(write_store, batcher.append, world, read_store)
    history = HistoryCheck(write_store)
    io = ProjectorIO(write_store, read_store, parts.events.decode, world, history)
    projections = ProjectionKind(wiring.projections, parts.models, cluster, io, limits)
    policies = PolicyKind(wiring.policies, write_store, parts.events, command_side, world, limits)
    kinds: list[FollowerKind[Any]] = [projections, BuildKind(projections), policies]
    worker = WorkerLimits(poll_seconds=settings.poll_seconds, retries=settings.fold_retries, observer=parts.observer)
    follows = session is not None or "sync" in parts.roles
    options = NodeOptions(lease_seconds=settings.lease_seconds, worker=worker, session=session, follows=follows)
    synchronization = Synchronization(
        cluster, write_store, read_store, world, kinds, parts.models, moved=parts.moved, options=options
    )
    return Runtime(
        write_store=write_store,
        read_store=read_store,
        batcher=batcher,
        folds=folds,
        snapshots=snapshots,
        commands=commands,
        write_check=WriteCheck(write_store, batcher, world),
        history=history,
        models=parts.models,
        synchronization=synchronization,
        move=OnlineMove(write_store, settings, world, parts.log_moved),
        maintenance=session is not None,
        roles=parts.roles,
    )


def _follower_limits(settings: Settings, *, retry_parked: bool) -> FollowerLimits:
    return FollowerLimits(
        page_events=settings.page_events,
        catch_up_page_events=settings.catch_up_page_events,
        cached_rows=settings.cached_rows,
        breaker_keys=settings.breaker_keys,
        breaker_share=settings.breaker_share,
        max_causation_depth=settings.max_causation_depth,
        policy_concurrency=settings.policy_concurrency,
        policy_breaker_keys=settings.policy_breaker_keys,
        fold_retries=settings.fold_retries,
        retry_parked=retry_parked,
    )
