"""Runs followers along the log: it reads pages, gives them to the followers, retries what fails, and parks."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, get_args

import msgspec

from twofold.domain.events import Position
from twofold.errors import Conflict, Refused, Unavailable
from twofold.retrying import delay
from twofold.signal import Signal, wait_for
from twofold.synchronization.follower import FollowerPaused, Skips, State, WholeFollower
from twofold.synchronization.follower_kind import Team
from twofold.synchronization.follower_observer import UNOBSERVED, FollowerObserver
from twofold.synchronization.follower_run import FollowerRun
from twofold.synchronization.outage import Outage
from twofold.synchronization.page_reader import PageReader
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 10.0
_RATE_SECONDS = 5.0
_WORST: Sequence[State] = get_args(State)
_REST = 2.0
_LONGEST_REST = 0.01
_UNTIL_STOPPED = 3600.0
"""Seconds a follower rests that has paused itself. The supervisor stops its worker long before."""
_STOPPED = "The follower was stopped before it came to this. Try again."


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How often a worker looks for events (in seconds), and how often a follower fails before an event is parked.

    `observer` observes each page.
    """

    poll_seconds: float
    retries: int
    observer: FollowerObserver = UNOBSERVED


class Worker:
    """Runs the followers of a team along the log in one pass. A notification of new events is a hint: it polls too.

    It runs only as long as the node holds its leases (`held`): without them no follower can save. `moved` fires
    whenever a follower has come further.
    """

    def __init__(
        self,
        team: Team,
        write_store: WriteStore,
        world: World,
        limits: WorkerLimits,
        moved: Signal,
        held: Callable[[], bool] = lambda: True,
    ) -> None:
        self.runs = [FollowerRun(unit, follower) for unit, follower in team.followers.items()]
        self._pages = PageReader(write_store, team, world)
        self._world = world
        self._limits = limits
        self._moved = moved
        self._held = held
        for run in self.runs:
            if run.own is not None:
                run.own.held = held
        self._stopping = False
        self._waiting = False
        self._new_skips = False
        self._asked: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._wake = Signal()
        self._task: asyncio.Task[None] | None = None
        self._done: deque[tuple[float, int]] = deque()

    @property
    def follower(self) -> WholeFollower:
        """The follower of a worker that has only one."""
        (run,) = self.runs
        return run.follower

    def run_of(self, unit: WorkUnit, key: str) -> FollowerRun:
        """The follower that deals with a key of a unit. Unavailable if there is none any more."""
        for run in self.runs:
            if (run.unit.name, run.unit.generation) == (unit.name, unit.generation) and run.unit.holds(key):
                return run
        raise Unavailable(f"This node does not follow '{unit.name}' for the key '{key}' any more. Try again.")

    @property
    def position(self) -> Position:
        """The position that all its followers have reached."""
        return min(run.position for run in self.runs)

    @property
    def state(self) -> State:
        """The worst state of its followers."""
        if self._waiting:
            return "waiting"
        states: list[State] = [run.state for run in self.runs]
        return min(states, key=_WORST.index)

    @property
    def error(self) -> str | None:
        """The error of the follower in the worst state."""
        return min(self.runs, key=lambda run: _WORST.index(run.state)).error

    @property
    def outage(self) -> Outage | None:
        """What a follower waits for because it is away; None if none does."""
        return next((run.outage for run in self.runs if run.outage is not None), None)

    def error_of(self, name: str, generation: int) -> str | None:
        """The error of a partition of one generation, if one has an error."""
        mine = [run for run in self.runs if (run.unit.name, run.unit.generation) == (name, generation)]
        return next((run.error for run in mine if run.error is not None), None)

    @property
    def paused(self) -> bool:
        """Whether a follower has paused itself. This worker does not let it go on: start another one for that."""
        return any(run.state == "paused" for run in self.runs)

    @property
    def ended(self) -> bool:
        """Whether it has ended without `stop`. Then it takes no page and answers no request."""
        return self._task is not None and self._task.done() and not self._stopping

    async def start(self) -> None:
        """Read the checkpoints and begin. WiringError if one belongs to another log.

        After a passing error (another process came first, a store is away for a moment) it is tried again.
        """
        for run in self.runs:
            try:
                run.position = await run.follower.open()
            except (Conflict, Unavailable) as error:
                run.failed("retrying", error, self._world.monotonic())
                run.reopen = True
        names = ", ".join(run.unit.name for run in self.runs)
        self._task = asyncio.create_task(self._run(), name=f"twofold-{names}")

    async def stop(self) -> None:
        """End after the page under way."""
        self._stopping = True
        try:
            if self._task is not None:
                # The worker may be waiting for news or for a pause to end; a page is saved whole or not at all.
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            self._pages.close()
            for _, answer in self._asked:
                answer.cancel()
            for run in self.runs:
                await run.follower.close()

    async def between_pages(self, do: Callable[[], Awaitable[T]]) -> T:
        """The result of `do`, run while no page is under way. Unavailable if the worker ends before."""
        if self._stopping or self.ended:
            raise Unavailable(_STOPPED)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.append((do, answer))
        self._wake.fire()
        return await unless_stopped(answer)

    def add_skips(self, skips: Mapping[str, Skips]) -> None:
        """Skip these events, by the name of the projection, from now on."""
        for run in self.runs:
            run.follower.add_skips(skips.get(run.unit.name, frozenset()))
        self._new_skips = True
        self._wake.fire()

    def rate(self) -> float:
        """Events per second over the last few seconds."""
        self._forget_before(self._world.monotonic() - _RATE_SECONDS)
        return sum(count for _, count in self._done) / _RATE_SECONDS

    async def _run(self) -> None:
        while not self._stopping:
            try:
                # First the checkpoints: what operators ask for is done at the checkpoint.
                await self._open_again()
                if self._new_skips:
                    self._new_skips = False
                    self._end_rests()
                await self._answer()
                await self._step()
            except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                # The log cannot be read. That concerns all followers.
                self._note(self.runs, error)
            await self._pause()

    async def _open_again(self) -> None:
        for run in self.runs:
            if run.reopen and run.rests_until <= self._world.monotonic():
                try:
                    run.position = await run.follower.open()
                    run.reopen = False
                except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                    self._note([run], error)

    def _note(self, runs: Sequence[FollowerRun], error: Exception) -> None:
        """Let followers that failed rest, longer with each failure in a row."""
        now = self._world.monotonic()
        for run in runs:
            if isinstance(error, FollowerPaused):
                log.error("%s has paused itself. %s", run.unit.name, error)
                run.failed("paused", error, now + _UNTIL_STOPPED)
                continue
            if run.own is not None and run.own.stopped is not None:
                # It goes on by itself, and an error has stopped it. Only `open` starts it again.
                run.reopen = True
            if isinstance(error, Conflict | Unavailable):
                # Another process may have moved the checkpoint: read it again first.
                run.reopen = run.reopen or isinstance(error, Conflict)
                run.failed("retrying", error, now + FIRST_PAUSE)
                continue
            run.failures += 1
            # If the event cannot be parked either, the follower has stopped. It says so, and keeps trying.
            stuck = run.failures > self._limits.retries + 1
            pause = delay(run.failures, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
            run.failed("stopped" if stuck else "retrying", error, now + pause)
            if run.failures in (1, self._limits.retries + 2):
                log.error("%s failed at position %d", run.unit.name, run.position + 1, exc_info=error)

    async def _answer(self) -> None:
        """Run what `between_pages` was given."""
        while self._asked and not any(run.reopen for run in self.runs):
            do, answer = self._asked.popleft()
            try:
                done = await do()
            except (Refused, Unavailable) as error:
                _settle(answer, error)
            except asyncio.CancelledError:
                # The worker is stopped, not the task that asked.
                answer.cancel()
                raise
            except BaseException as error:
                _settle(answer, error)
                raise
            else:
                if not answer.done():
                    answer.set_result(done)
            self._end_rests()

    def _end_rests(self) -> None:
        """Try again at once: the cause of a failure may be gone."""
        for run in self.runs:
            if run.state != "paused":
                run.rests_until = 0.0

    async def _step(self) -> None:
        self._waiting = not self._held()
        if self._waiting:
            await self._world.poll(self._wake.next, self._limits.poll_seconds)
            return
        changes = [run.own.changed.next for run in self.runs if run.own is not None]
        retries = await self._retry_pending()
        now = self._world.monotonic()
        ready = [run for run in self.runs if run.ready(now) and not run.full]
        if not ready:
            if any(run.ready(now) for run in self.runs):
                await self._first_of(changes, self._world.poll(self._wake.next, self._limits.poll_seconds))
            return
        position = min(run.position for run in ready)
        page = await self._pages.read(position)
        if page.upto <= position:
            for run in ready:
                if run.position <= position:
                    run.went_on(live=True)
            await self._wait(
                position, changes, [*retries, *(run.rests_until - now for run in self.runs if run not in ready)]
            )
            return
        self._pages.read_ahead(page)
        began = self._world.monotonic()
        for run in ready:
            if run.position < page.upto:
                try:
                    await self._take(run, run.part(page, len(self.runs) == 1))
                except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                    # The other followers go on.
                    self._note([run], error)
                else:
                    run.went_on(live=page.upto == page.head)
        # Commands run on this loop too. A follower that is up to date rests twice as long as it has worked. What is
        # written meanwhile comes as one page, and is saved in one transaction.
        worked = self._world.monotonic() - began
        await self._world.sleep(min(_REST * worked, _LONGEST_REST) if page.upto == page.head else 0)

    async def _wait(self, position: Position, changes: Sequence[asyncio.Event], rests: Sequence[float]) -> None:
        """Wait for events after a position, at most until the first of these rests, in seconds, is over."""
        rest = min(rests, default=None)
        if rest is not None and rest <= 0:
            # There is more to do at once, but other tasks of this loop have a turn first.
            await self._world.sleep(0)
            return
        events = self._first_of(changes, self._pages.wait(position, self._limits.poll_seconds))
        try:
            await (events if rest is None else self._world.within(rest, events))
        except TimeoutError:
            return

    async def _first_of(self, changes: Sequence[asyncio.Event], waiting: Coroutine[Any, Any, None]) -> None:
        """Return when `waiting` does, or when a follower that goes on by itself says that something has changed."""
        if not changes:
            await waiting
            return
        first = asyncio.ensure_future(waiting)
        others = [asyncio.ensure_future(change.wait()) for change in changes]
        try:
            await asyncio.wait([first, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            done = first.done()
            for task in (first, *others):
                task.cancel()
            await asyncio.gather(first, *others, return_exceptions=True)
        if done:
            # It may have failed.
            await first

    async def _retry_pending(self) -> list[float]:
        """Let each follower do one of its pending retries. The seconds until more are due."""
        now = self._world.monotonic()
        rests: list[float] = []
        for run in self.runs:
            if run.ready(now):
                try:
                    again = await run.follower.retry_pending(run.position)
                except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                    self._note([run], error)
                else:
                    rests += [] if again is None else [again]
        return rests

    async def _take(self, run: FollowerRun, page: Slice) -> None:
        if run.failures > self._limits.retries:
            await self._one_by_one(run, page)
            return
        with self._limits.observer.page(run.unit, page):
            await run.follower.apply(page, run.position)
        self._advance(run, page.upto, len(page.events))

    async def _one_by_one(self, run: FollowerRun, page: Slice) -> None:
        """Find the event that fails: take each event alone, and park the one that fails again."""
        for event in page.events:
            alone = Slice([event], event.position, page.head, event.chain)
            try:
                await run.follower.apply(alone, run.position)
            except (Conflict, Unavailable, FollowerPaused):
                raise
            except Exception as error:
                await run.follower.park(alone, run.position, error)
                log.error("%s parked the event at position %d", run.unit.name, event.position, exc_info=error)
            self._advance(run, event.position, 1)
        if run.position < page.upto:
            await run.follower.apply(Slice([], page.upto, page.head, page.chain), run.position)
            self._advance(run, page.upto, 0)

    def _advance(self, run: FollowerRun, position: Position, events: int) -> None:
        run.position = position
        now = self._world.monotonic()
        self._forget_before(now - _RATE_SECONDS)
        self._done.append((now, events))
        self._moved.fire()

    def _forget_before(self, moment: float) -> None:
        while self._done and self._done[0][0] < moment:
            self._done.popleft()

    async def _pause(self) -> None:
        """If all followers rest: wait until one of them is to be tried again, or until something is asked for."""
        wake = self._wake.next
        pause = min(run.rests_until for run in self.runs) - self._world.monotonic()
        asked = self._asked and not any(run.reopen for run in self.runs)
        if pause > 0 and not (asked or self._new_skips or self._stopping):
            await wait_for(wake, pause, self._world)


async def unless_stopped(answer: "asyncio.Future[T]") -> T:
    """The result of a future that a worker or its follower gives. Unavailable if they were stopped before."""
    try:
        return await answer
    except asyncio.CancelledError:
        me = asyncio.current_task()
        if answer.cancelled() and not (me is not None and me.cancelling()):
            raise Unavailable(_STOPPED) from None
        raise


def _settle(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
