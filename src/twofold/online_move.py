"""Moving the log of a running app: it is followed, and then replaced by its copy while commands wait for a moment."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

import msgspec

from twofold.domain.events import Position
from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.log_moving import CutOver, movable
from twofold.settings import Settings
from twofold.stores import open_log_copy, place_of
from twofold.world import World
from twofold.write_store.current_log import CurrentLog
from twofold.write_store.log_copier import PAUSE_AFTER, LogCopier, Pace
from twofold.write_store.port import LogIdentity

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""Commands wait this long at most for what is left to be copied. If it is not copied by then, they go on before it is
tried again. What follows takes a moment, and is not stopped: the old log ends, and the new one is opened."""
_SHORT_ROUND = 0.1
_NOT_MUCH_SHORTER = 0.8
_MOST_ROUNDS = 100
_MOST_ATTEMPTS = 20
_BETWEEN_ATTEMPTS = 0.2


class MoveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a move is: "following" the log, "moved", or "failed" with an `error`: the app uses its log as before.

    `place` is where to, `position` the last event that was copied, `head` that of the log. `pause_seconds` is how long
    commands waited; None before that.
    """

    state: Literal["following", "moved", "failed"]
    place: str
    position: Position = 0
    head: Position = 0
    pause_seconds: float | None = None
    error: str | None = None


class OnlineMove:
    """Moves the log of one running app, one move at a time. `moved` is called once the app uses the log at the URL."""

    def __init__(
        self, current: CurrentLog, settings: Settings, world: World, moved: Callable[[str], Awaitable[None]]
    ) -> None:
        self.status: MoveStatus | None = None
        """The last move that was begun; None where none was."""
        self._log = current
        self._settings = settings
        self._world = world
        self._moved = moved
        self._task: asyncio.Task[MoveStatus] | None = None
        self._switching = False

    @property
    def identity(self) -> LogIdentity:
        """Which log the app uses now."""
        return self._log.identity

    @property
    def replaced(self) -> asyncio.Event:
        """Set when the app uses another log. `status` says where it is."""
        return self._log.replaced.next

    def start(self, url: str) -> asyncio.Task[MoveStatus]:
        """Begin to move the log to a URL; the task of the move, whose result is the last status.

        The task that moves it there already, or has moved it there. Conflict where it is being moved elsewhere.
        """
        place = place_of(url)
        movable(self._log.present)
        last = self.status
        if self._task is not None and last is not None and (last.state, last.place) == ("moved", place):
            return self._task
        if self._task is None or self._task.done():
            self.status = MoveStatus(state="following", place=place)
            self._task = asyncio.create_task(self._run(url), name="twofold-move")
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        elif self.status is not None and self.status.place != place:
            raise Conflict(f"The log is being moved to {self.status.place}. Wait for the end of that move.")
        return self._task

    async def run(self, url: str) -> MoveStatus:
        """Move the log to a URL. If the caller is cancelled, the move goes on."""
        return await asyncio.shield(self.start(url))

    async def stop(self) -> None:
        """Stop following. Once the log is being replaced, this waits for the end of that."""
        if self._task is not None:
            if not self._switching:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, url: str) -> MoveStatus:
        try:
            await self._move(url)
        except BaseException as error:
            if not isinstance(error, TwofoldError):
                log.exception("The log could not be moved")
            self._note(state="failed", error=str(error) or type(error).__name__)
            raise
        finally:
            self._log.ignore_rows()
            self._switching = False
        assert self.status is not None
        return self.status

    async def _move(self, url: str) -> None:
        place = place_of(self._settings.write_store)
        cut_over = CutOver(self._log.present, place, url, self._settings, self._world)
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                await self._attempt(url, cut_over)
                break
            except (TimeoutError, Unavailable) as error:
                if not self._switching or cut_over.sealed is not None or attempt == _MOST_ATTEMPTS:
                    raise
                log.info("The log is not moved yet, and commands go on: %s", error)
                self._switching = False
            await self._world.sleep(_BETWEEN_ATTEMPTS)
        try:
            await self._moved(url)
        except Exception:
            # The app uses the new log, so the move has not failed.
            log.exception("The log was moved to %s, but a part of the app does not know it", place_of(url))

    async def _attempt(self, url: str, cut_over: CutOver) -> None:
        """Follow the log, then replace it. TimeoutError or Unavailable where that can be tried again."""
        place = place_of(self._settings.write_store)
        self._log.watch_rows()
        async with AsyncExitStack() as pause:
            began = self._world.monotonic()
            try:
                async with open_log_copy(url, self._log.identity, place, self._world) as copy:
                    copier = LogCopier(copy, Pace(self._progress, self._world, PAUSE_AFTER))
                    await self._follow(copier)
                    self._switching, began = True, self._world.monotonic()
                    await pause.enter_async_context(self._log.closed(PAUSE_SECONDS))
                    left = PAUSE_SECONDS - (self._world.monotonic() - began)
                    await cut_over.run(copier, self._log.take_changed_rows(), left)
            except Exception as error:
                if cut_over.sealed is None:
                    raise
                log.warning("The copy is completed once more: %s", error)
            try:
                new = await cut_over.opened()
            except BaseException as error:
                self._log.fail(
                    f"The log was moved to {place_of(url)}, and it cannot be opened there: {error} Start the app again "
                    "with that write store."
                )
                raise
            old = self._log.replace(new)
            self._settings = msgspec.structs.replace(self._settings, write_store=url)
        self._note(state="moved", pause_seconds=self._world.monotonic() - began)
        try:
            await old.close()
        except Exception:
            log.exception("The store from which the log was moved could not be closed")

    async def _follow(self, copier: LogCopier) -> None:
        """Copy what is there, again and again, until a round is short, or not much shorter than the one before."""
        source, before = movable(self._log.present), math.inf
        for _ in range(_MOST_ROUNDS):
            changed = self._log.take_changed_rows()
            began = self._world.monotonic()
            async with source.snapshot() as snapshot:
                await copier.update(snapshot, changed)
            took = self._world.monotonic() - began
            if took < _SHORT_ROUND or took > _NOT_MUCH_SHORTER * before:
                return
            before = took
        raise Unavailable("The copy does not catch up with the log.")

    def _progress(self, position: Position, head: Position) -> None:
        self._note(position=position, head=head)

    def _note(self, **changes: Any) -> None:
        assert self.status is not None
        self.status = msgspec.structs.replace(self.status, **changes)
