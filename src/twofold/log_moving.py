"""The last step of a move: the old log ends, and its copy becomes the log. What a crash between two steps leaves."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from twofold.domain.events import Position
from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.retrying import retry_until_deadline
from twofold.settings import Settings
from twofold.stores import open_log_copy, open_write_store, place_of, shown
from twofold.world import World
from twofold.write_store.log_content import LogCopy, LogUse, Movable
from twofold.write_store.log_copier import LogCopier, RowKeys
from twofold.write_store.port import LogIdentity, WriteStore

PATIENCE = 30.0
"""Seconds in which a store must answer again, once the old log may have ended."""

_LONG = 1e6


def movable(write_store: WriteStore) -> Movable:
    """The same write store. WiringError where its log cannot be moved."""
    if not isinstance(write_store, Movable):
        raise WiringError(f"The log in a {type(write_store).__name__} cannot be moved: it exists only in its process.")
    return write_store


class CutOver:
    """Ends a log at a place and makes its copy the log, at `url`. `sealed` is its identity once the old log has ended.

    The old log is sealed only when the copy has all of it. Until then the old log is the log, from then on the copy
    is, also where it is not complete yet: nothing is written to the old one any more. `opened` completes it.
    """

    def __init__(self, source: WriteStore, place: str, url: str, settings: Settings, world: World) -> None:
        self.sealed: LogIdentity | None = None
        self._source = movable(source)
        self._place = place
        self._url = url
        self._settings = settings
        self._world = world

    async def run(self, copier: LogCopier, changed: RowKeys | None = None, seconds: float | None = None) -> None:
        """Copy what is left, within `seconds`, seal the old log, complete the copy.

        TimeoutError, or Unavailable where a store cannot be reached. Where `sealed` is not set then, nothing happened.
        """
        place, asked, identity = place_of(self._url), False, LogIdentity("", 0)
        end = self._world.monotonic() + (_LONG if seconds is None else seconds)
        try:
            async with AsyncExitStack() as source:
                closing = source.enter_async_context(self._source.closed())
                log = await self._world.within(end - self._world.monotonic(), closing)
                ended = log.use == LogUse("moved", place)
                if not ended:
                    log.use.refuse(self._place, read_only=False)
                await self._world.within(end - self._world.monotonic(), copier.update(log, changed))
                if ended:
                    # An earlier call has sealed it, and its answer was lost for longer than that call waited.
                    identity = log.identity
                else:
                    identity = next_identity(log.identity, log.head)
                    asked = True
                    await log.seal(place)
        except Unavailable:
            # The answer may be lost, although the log has ended.
            if not asked or not await self._has_ended(place):
                raise
        self.sealed = identity
        await copier.copy.complete(identity)

    async def _has_ended(self, place: str) -> bool:
        async def ask(_: float) -> bool:
            async with self._source.snapshot() as log:
                return log.use == LogUse("moved", place)

        return await retry_until_deadline(
            ask, world=self._world, patience=PATIENCE, retryable=lambda error: isinstance(error, Unavailable)
        )

    async def opened(self) -> WriteStore:
        """The new log, open. It is completed first where `run` could not do that."""

        async def attempt(_: float) -> WriteStore:
            try:
                return await open_write_store(self._url, self._settings, self._world)
            except WiringError as error:
                try:
                    await self._complete()
                except WiringError as reason:
                    raise error from reason
                raise Unavailable("The copy was not complete.") from None

        return await retry_until_deadline(
            attempt, world=self._world, patience=PATIENCE, retryable=lambda error: isinstance(error, Unavailable)
        )

    async def _complete(self) -> None:
        assert self.sealed is not None
        async with open_log_copy(self._url, None, "", self._world) as copy:
            await copy.complete(self.sealed)


def next_identity(identity: LogIdentity, head: Position) -> LogIdentity:
    """The identity of a log with one more epoch, which begins after `head`."""
    epoch = identity.epoch + 1
    return LogIdentity(identity.log, epoch, (*identity.forks, (epoch, head)))


async def take_into_use(url: str, world: World, *, abandon: bool = False) -> tuple[LogIdentity, Position]:
    """Make a copy the log without its source, which is lost; the log, and its head.

    WiringError where commands and rows are not those of its last event, and where its source can still be opened,
    unless that is to be abandoned.
    """
    async with open_log_copy(url, None, "", world) as copy:
        if not abandon:
            await _refuse_present_source(copy, url, world)
        if copy.settled != copy.head:
            raise WiringError(
                f"The copy {shown(url)} has events up to position {copy.head}, but not the command ids and rows that "
                "belong to them: it was stopped while it caught up. Continue it with `twofold move --follow`."
            )
        identity = next_identity(copy.identity, copy.head)
        await copy.complete(identity)
        return identity, copy.head


async def _refuse_present_source(copy: LogCopy, url: str, world: World) -> None:
    """WiringError where the log that a copy follows is there. What cannot be opened, or is another log, is not it."""
    try:
        source = await open_write_store(copy.place, Settings(), world, read_only=True)
    except TwofoldError:
        return
    try:
        if source.identity.log != copy.identity.log:
            return
        async with movable(source).snapshot() as snapshot:
            head, used = snapshot.head, snapshot.use
    except TwofoldError:
        return
    finally:
        await source.close()
    if used == LogUse("moved", place_of(url)):
        raise WiringError(
            f"The log at {copy.place} was moved here, and that move was interrupted. Repeat it: `twofold move --from "
            f"{copy.place} --to {place_of(url)}`."
        )
    raise WiringError(
        f"The log that this copy follows is still at {copy.place}, up to position {head}; the copy goes up to "
        f"{copy.head}. Move it with `twofold move --from {copy.place} --to {place_of(url)}`. If it must not be used "
        "any more, add --abandon, and never start an app on it again."
    )


@asynccontextmanager
async def opened_for_move(url: str, settings: Settings, world: World) -> AsyncGenerator[WriteStore]:
    """A log that is to be moved, open for writing; read-only where it was moved already."""
    log = await open_write_store(url, settings, world, read_only=True)
    try:
        async with movable(log).snapshot() as snapshot:
            moved = snapshot.use.use == "moved"
        if not moved:
            await log.close()
            log = await open_write_store(url, settings, world)
        yield log
    finally:
        await log.close()
