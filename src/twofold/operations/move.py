"""`twofold move` without a running app: the log is copied, the old one ends, and the copy becomes the log."""

from collections.abc import Callable

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import ForkedHistory, Unavailable, WiringError
from twofold.log_moving import CutOver, movable, opened_for_move
from twofold.operations.progress import OnProgress, no_progress
from twofold.settings import Settings
from twofold.stores import open_log_copy, open_write_store, place_of
from twofold.world import World
from twofold.write_store.log_content import Movable, moved_to
from twofold.write_store.log_copier import LogCopier, Pace
from twofold.write_store.port import LogIdentity

_LONGEST_WAIT = 5.0
_BETWEEN = 0.2
_AGAIN = 2.0


class MoveResult(msgspec.Struct, frozen=True):
    """The log with its new epoch and its head, and how many events, command ids and rows were copied by this call.

    `moved_before`: an earlier call had done it all.
    """

    log: str
    epoch: int
    head: Position
    events: int
    commands: int
    rows: int
    moved_before: bool = False


async def move(source: str, target: str, world: World, on_progress: OnProgress = no_progress) -> MoveResult:
    """Move the log at one URL to another one. A move that was interrupted goes on where it was.

    Positions, command ids and rows stay the same, so read models, receipts and policies go on with the new log. It
    begins a new epoch. The old log says where it went, and takes no appends any more. WiringError where a store cannot
    be moved, or the target has something else; ForkedHistory where it has the beginning of another history.
    """
    settings = Settings()
    async with opened_for_move(source, settings, world) as log:
        async with movable(log).snapshot() as snapshot:
            identity, use = snapshot.identity, snapshot.use
        if use.use == "moved" and use.place != place_of(target):
            raise WiringError(moved_to(place_of(source), use.place))
        if use.use == "moved" and (done := await _moved_before(target, identity, world)) is not None:
            return done
        async with open_log_copy(target, identity, place_of(source), world) as copy:
            copier = LogCopier(copy, Pace(on_progress, world))
            await _update(copier, movable(log))
            if use.use == "moved":
                # This ended after the old log was sealed, and before the copy was complete.
                await copy.complete(identity)
                return _result(identity, copier)
            cut_over = CutOver(log, place_of(source), target, settings, world)
            await cut_over.run(copier)
        assert cut_over.sealed is not None
        return _result(cut_over.sealed, copier)


async def keep_copy(
    source: str,
    target: str,
    world: World,
    settled: Callable[[Position], None],
    interrupted: Callable[[Unavailable], None],
) -> None:
    """Keep a copy of the log at one URL up to date at another one, beside the running app, until this is cancelled.

    `settled` is called after each round with the position up to which the copy could be taken into use, `interrupted`
    where a store cannot be reached; then it is tried again. WiringError where the log was moved, or is damaged.
    """
    while True:
        try:
            await _keep_copy(source, target, world, settled)
        except ForkedHistory:
            raise
        except Unavailable as error:
            interrupted(error)
            await world.sleep(_AGAIN)


async def _keep_copy(source: str, target: str, world: World, settled: Callable[[Position], None]) -> None:
    log = await open_write_store(source, Settings(), world, read_only=True)
    try:
        async with open_log_copy(target, log.identity, place_of(source), world) as copy:
            copier = LogCopier(copy, Pace(no_progress, world))
            while True:
                async with movable(log).snapshot() as snapshot:
                    snapshot.use.refuse(place_of(source), read_only=False)
                    await copier.update(snapshot)
                settled(copy.head)
                await log.wait(copy.head, _LONGEST_WAIT)
                # Not a round for each event.
                await world.sleep(_BETWEEN)
    finally:
        await log.close()


async def _moved_before(target: str, identity: LogIdentity, world: World) -> MoveResult | None:
    """The log at the place to which it was moved, where it is complete; None where it is not."""
    try:
        log = await open_write_store(target, Settings(), world, read_only=True)
    except WiringError:
        return None
    try:
        present, head = log.identity, (await log.read(NO_EVENTS)).head
    finally:
        await log.close()
    if present.log != identity.log or present.epoch < identity.epoch:
        return None
    return MoveResult(present.log, present.epoch, head, 0, 0, 0, moved_before=True)


async def _update(copier: LogCopier, source: Movable) -> None:
    async with source.snapshot() as snapshot:
        await copier.update(snapshot)


def _result(identity: LogIdentity, copier: LogCopier) -> MoveResult:
    return MoveResult(identity.log, identity.epoch, copier.copy.head, *copier.counts)
