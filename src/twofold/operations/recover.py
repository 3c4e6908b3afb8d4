"""Accepting a log as it is: read models of another history are dropped or replaced, and a new epoch begins."""

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import Conflict, ForkedHistory, WiringError
from twofold.read_store.port import Checkpoint, ReadStore
from twofold.synchronization.cluster_state import ClusterStateStore, Generation, Generations
from twofold.write_store.history import check_history, digest_at, last_common_position
from twofold.write_store.port import Append, EpochStore, Outcome, WriteStore

MAX_SHOWN = 1_000
"""Lost events that are listed. All of them are counted."""
_PAGE = 1_000


class ForkedGeneration(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of a read model that the log does not hold, and why.

    `replacement` is the standby generation that serves in its place; None: it is built again from the log.
    """

    name: str
    generation: int
    position: Position
    reason: str
    serves: bool
    replacement: int | None = None


class LostEvent(msgspec.Struct, frozen=True):
    """An event that a copy of the log has, and the log does not."""

    position: Position
    type: str
    command_id: str


class RecoveryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What does not fit the log, and what was lost. `digest` is that of the chain at the head.

    `seen` is the last position that a read model has reached. `common` is the last position up to which a copy of the
    log agrees with it, `lost` are the first events of the copy after that, `lost_count` is the number of all of them;
    None and 0 without a copy.
    """

    log: str
    epoch: int
    head: Position
    digest: str
    seen: Position
    generations: Sequence[ForkedGeneration]
    common: Position | None = None
    lost: Sequence[LostEvent] = ()
    lost_count: int = 0


async def plan_recovery(
    app: App, write_store: WriteStore, read_store: ReadStore, copy: WriteStore | None = None
) -> RecoveryPlan:
    """Compare all checkpoints of an app's read models with its log, and a copy of the log with it. Changes nothing.

    WiringError where the copy is of another log.
    """
    end = await write_store.read(NO_EVENTS)
    identity = write_store.identity
    checkpoints = [at for at in await read_store.checkpoints() if at.name in app.models]
    state = await _cluster(app, write_store, read_store).read()
    generations: list[ForkedGeneration] = []
    reasons = await _forked(write_store, checkpoints)
    for (name, number), (position, reason) in sorted(reasons.items()):
        builds = state.generations(name).record.builds
        build = builds.get(number)
        serves = build is not None and build.state == "serving"
        standby = _standby(builds, build, name, reasons) if serves else None
        generations.append(
            ForkedGeneration(
                name=name, generation=number, position=position, reason=reason, serves=serves, replacement=standby
            )
        )
    seen = max((at.progress.position for at in checkpoints), default=0)
    common, lost, count = await _lost(write_store, copy) if copy is not None else (None, [], 0)
    return RecoveryPlan(
        log=identity.log,
        epoch=identity.epoch,
        head=end.head,
        digest=end.digest,
        seen=seen,
        generations=generations,
        common=common,
        lost=lost,
        lost_count=count,
    )


async def recover(app: App, write_store: WriteStore, read_store: ReadStore, plan: RecoveryPlan) -> int:
    """Do what a plan says, and begin a new epoch; its number. Safe to interrupt and to repeat.

    Both stores are open for writing. WiringError where the write store has no epochs; Conflict where a node changes
    the generations meanwhile: stop the app first.
    """
    if not isinstance(write_store, EpochStore):
        raise WiringError(f"The log in a {type(write_store).__name__} cannot begin an epoch. Name a file or a server.")
    epoch = await write_store.begin_epoch("an operator accepted the log as it is")
    # First the record, then the rows: if this is interrupted, the rows are found again by their checkpoints.
    by_name: dict[str, list[ForkedGeneration]] = {}
    for generation in plan.generations:
        by_name.setdefault(generation.name, []).append(generation)
    cluster = _cluster(app, write_store, read_store)
    state = await cluster.read()
    for name, forked in by_name.items():
        row = state.generations(name)
        changes: dict[int, Generation | None] = {each.generation: None for each in forked}
        for number in (each.replacement for each in forked):
            if number is not None:
                changes[number] = msgspec.structs.replace(row.record.builds[number], state="serving")
        record = row.record.with_changes(changes)
        last = max(record.last, *(each.generation for each in forked))
        written = cluster.generations(name, Generations(record.builds, last), row.version)
        if not await cluster.write(written):
            raise Conflict(f"A node changed the generations of '{name}' meanwhile. Stop the app, then repeat.")
    for generation in plan.generations:
        await read_store.drop(generation.name, generation.generation)
    return epoch


def _cluster(app: App, write_store: WriteStore, read_store: ReadStore) -> ClusterStateStore:
    async def append(rows: Append) -> Outcome:
        (outcome,) = await write_store.append([rows])
        return outcome

    return ClusterStateStore(write_store, append, app.world, read_store)


async def _forked(
    write_store: WriteStore, checkpoints: Sequence[Checkpoint]
) -> dict[tuple[str, int], tuple[Position, str]]:
    """The position and the reason of each generation that the log does not hold, by name and number."""
    forked: dict[tuple[str, int], tuple[Position, str]] = {}
    for checkpoint in checkpoints:
        progress = checkpoint.progress
        if not progress.position:
            continue
        try:
            await check_history(write_store, progress.stamp, progress.position)
        except ForkedHistory as error:
            forked.setdefault((checkpoint.name, checkpoint.generation), (progress.position, str(error)))
    return forked


def _standby(
    builds: Mapping[int, Generation],
    build: Generation | None,
    name: str,
    forked: Mapping[tuple[str, int], tuple[Position, str]],
) -> int | None:
    """The newest standby generation of the same version that the log holds."""
    fitting = [
        number
        for number, other in builds.items()
        if build is not None
        and (other.version, other.state) == (build.version, "standby")
        and (name, number) not in forked
    ]
    return max(fitting, default=None)


async def _lost(write_store: WriteStore, copy: WriteStore) -> tuple[Position, list[LostEvent], int]:
    """The last common position of a log and a copy of it, and the events of the copy after that."""
    if copy.identity.log != write_store.identity.log:
        raise WiringError(f"The copy is of the log {copy.identity.log}, not of {write_store.identity.log}.")
    end = (await copy.read(NO_EVENTS)).head
    both = min((await write_store.read(NO_EVENTS)).head, end)
    common = await last_common_position(partial(digest_at, write_store), partial(digest_at, copy), both)
    lost: list[LostEvent] = []
    position = common
    while position < end and len(lost) < MAX_SHOWN:
        page = await copy.read(ALL_EVENTS, position, min(_PAGE, MAX_SHOWN - len(lost)))
        lost += [LostEvent(event.position, event.type, event.metadata.command_id) for event in page.events]
        position = page.upto
    return common, lost, end - common
