"""In charge of running followers along the log: read, apply, retry, park, and never skip."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_args

from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position
from twofold.errors import Conflict, Refused, Unavailable
from twofold.synchronization.follower import Skips, State, WholeFollower
from twofold.synchronization.follower_run import FollowerRun
from twofold.world import World
from twofold.write_store.port import LogIdentity, Slice, WriteStore

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 10.0
_RATE_SECONDS = 5.0
_WORST: Sequence[State] = get_args(State)
_REST = 2.0
_PAGE_BYTES = 8 * 1024 * 1024
_LONGEST_REST = 0.01


class _Ahead(NamedTuple):
    """The page behind `after`, being read from a log of this identity."""

    after: Position
    log: LogIdentity
    reading: "asyncio.Future[Slice]"


class Worker:
    """Drives followers along the log in one pass. Notification is a hint, polling the truth.

    It goes on only as long as it is `held`: whoever has lost its lease may not save, and need not try.
    """

    def __init__(
        self,
        followers: Sequence[WholeFollower],
        write_store: WriteStore,
        world: World,
        *,
        page: int,
        most: int,
        poll: float,
        retries: int,
        moved: Callable[[], None],
        held: Callable[[], bool] = lambda: True,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self.members = [FollowerRun(each) for each in followers]
        self._query = _union(followers)
        self._write_store = write_store
        self._world = world
        self._page = self._limit = page
        self._most = max(page, most)
        self._ahead: _Ahead | None = None
        self._poll = poll
        self._retries = retries
        self._moved = moved
        self._held = held
        self._begin = begin
        self._stopping = False
        self._waiting = False
        self._new_skips = False
        self._asked: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._done: deque[tuple[float, int]] = deque()

    @property
    def follower(self) -> WholeFollower:
        """The one follower of a worker that has only one."""
        (member,) = self.members
        return member.follower

    def member(self, generation: int, key: str) -> FollowerRun:
        """The one that keeps a key in a generation; the only one of a policy. Unavailable where it is here no more."""
        found = next((each for each in self.members if each.keeps(generation, key)), None)
        if found is None:
            raise Unavailable(f"Nobody here keeps '{key}' any more. Ask again.")
        return found

    @property
    def position(self) -> Position:
        """The position that all have reached."""
        return min(member.position for member in self.members)

    @property
    def state(self) -> State:
        """How the one that fares worst is doing."""
        if self._waiting:
            return "waiting"
        states: list[State] = [each.state for each in self.members]
        return min(states, key=_WORST.index)

    @property
    def error(self) -> str | None:
        """What keeps the one that fares worst."""
        return min(self.members, key=lambda each: _WORST.index(each.state)).error

    def error_of(self, name: str, generation: int) -> str | None:
        """What keeps the partitions of one generation, if anything does."""
        mine = [each for each in self.members if (each.follower.name, each.follower.generation) == (name, generation)]
        return next((each.error for each in mine if each.error is not None), None)

    @property
    def ended(self) -> bool:
        """Whether it runs no more though nobody stopped it: it takes no page and answers nobody, ever."""
        return self._task is not None and self._task.done() and not self._stopping

    async def start(self) -> None:
        """Find the checkpoints and begin. WiringError where one belongs to another log.

        What passes (another process came first, a store is away for a moment) is tried again once it runs.
        """
        for member in self.members:
            try:
                member.position = await member.follower.open()
            except (Conflict, Unavailable) as error:
                member.failed("retrying", error, self._world.monotonic())
                member.reopen = True
        names = ", ".join(member.follower.name for member in self.members)
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
            if self._ahead is not None:
                _drop(self._ahead)
            for _, answer in self._asked:
                answer.cancel()
            for member in self.members:
                await member.follower.close()

    async def between_pages(self, do: Callable[[], Awaitable[T]]) -> T:
        """The result of `do`, run while no page is under way. Unavailable where the worker ends before."""
        if self._stopping or self.ended:
            raise Unavailable("The follower was stopped before it came to this. Ask again.")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.append((do, answer))
        self._wake.set()
        try:
            return await answer
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if answer.cancelled() and not (me is not None and me.cancelling()):
                raise Unavailable("The follower was stopped before it came to this. Ask again.") from None
            raise

    def skip(self, skips: Mapping[str, Skips]) -> None:
        """Pass over what operators have said to pass over, by projection; as soon as it can be done."""
        for member in self.members:
            member.follower.add_skips(skips.get(member.follower.name, frozenset()))
        self._new_skips = True
        self._wake.set()

    def rate(self) -> float:
        """Events per second over the last few seconds."""
        self._forget_before(self._world.monotonic() - _RATE_SECONDS)
        return sum(count for _, count in self._done) / _RATE_SECONDS

    async def _run(self) -> None:
        while not self._stopping:
            try:
                # First of all where they are: what is asked for is done on top of that.
                await self._open_again()
                if self._new_skips:
                    self._new_skips = False
                    self._rest_no_longer()
                await self._answer()
                await self._step()
            except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                # What concerns all of them: the log cannot be read.
                self._note(self.members, error)
            await self._pause()

    async def _open_again(self) -> None:
        for member in self.members:
            if member.reopen and member.rests_until <= self._world.monotonic():
                try:
                    member.position = await member.follower.open()
                    member.reopen = False
                except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                    self._note([member], error)

    def _note(self, members: Sequence[FollowerRun], error: Exception) -> None:
        """Let them rest for as long as they have failed in a row."""
        now = self._world.monotonic()
        for member in members:
            if isinstance(error, Conflict | Unavailable):
                # Someone else may have moved the checkpoint: look where it is now before going on.
                member.reopen = member.reopen or isinstance(error, Conflict)
                member.failed("retrying", error, now + FIRST_PAUSE)
                continue
            member.failures += 1
            # Careful steps that fail cannot even be parked: the follower stands still, visibly, and keeps trying.
            stuck = member.failures > self._retries + 1
            pause = min(FIRST_PAUSE * 2 ** min(member.failures - 1, 10), LONGEST_PAUSE)
            member.failed("stopped" if stuck else "retrying", error, now + pause)
            if member.failures in (1, self._retries + 2):
                log.error("%s failed at position %d", member.follower.name, member.position + 1, exc_info=error)

    async def _answer(self) -> None:
        """Do what was asked for between two pages."""
        while self._asked and not any(member.reopen for member in self.members):
            do, answer = self._asked.popleft()
            try:
                done = await do()
            except (Refused, Unavailable) as error:
                _settle(answer, error)
            except asyncio.CancelledError:
                # It is the worker that is stopped, not whoever asked.
                answer.cancel()
                raise
            except BaseException as error:
                _settle(answer, error)
                raise
            else:
                if not answer.done():
                    answer.set_result(done)
            self._rest_no_longer()

    def _rest_no_longer(self) -> None:
        """What kept them may be out of their way now."""
        for member in self.members:
            member.rests_until = 0.0

    async def _step(self) -> None:
        self._waiting = not self._held()
        if self._waiting:
            await self._world.sleep(self._poll)
            return
        rests = [self._poll, *await self._retry_pending()]
        now = self._world.monotonic()
        ready = [member for member in self.members if member.ready(now)]
        if not ready:
            return
        position = min(member.position for member in ready)
        page = await self._read(position)
        if page.upto <= position:
            for member in ready:
                if member.position <= position:
                    member.went_on(live=True)
            rests += [member.rests_until - now for member in self.members if member not in ready]
            rest = min(rests)
            # Where there is more to do at once, others on this loop have their turn all the same.
            await (self._write_store.wait(position, rest) if rest > 0 else self._world.sleep(0))
            return
        self._look_ahead(page)
        began = self._world.monotonic()
        if self._begin is not None:
            self._begin()
        for member in ready:
            if member.position < page.upto:
                try:
                    await self._take(member, member.part(page, len(self.members) == 1))
                except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                    # The others need not wait for this one.
                    self._note([member], error)
                else:
                    member.went_on(live=page.upto == page.head)
        # Others run on this loop too: commands first of all. A follower that is up to date rests twice as long as it
        # has worked; what is written meanwhile comes as one page, and is saved at the cost of one.
        worked = self._world.monotonic() - began
        await self._world.sleep(min(_REST * worked, _LONGEST_REST) if page.upto == page.head else 0)

    async def _retry_pending(self) -> list[float]:
        """Let each do one thing of what it tries again. In how many seconds there is more of that."""
        now = self._world.monotonic()
        rests: list[float] = []
        for member in self.members:
            if member.ready(now):
                try:
                    again = await member.follower.retry_pending(member.position)
                except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                    self._note([member], error)
                else:
                    rests += [] if again is None else [again]
        return rests

    async def _read(self, position: Position) -> Slice:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if (ahead.after, ahead.log) == (position, self._write_store.identity):
                return await ahead.reading
            _drop(ahead)
        return await self._write_store.read(self._query, position, self._limit)

    def _look_ahead(self, page: Slice) -> None:
        """Far behind, take more at a time, and read the next page while this one is folded and saved."""
        size = sum(len(event.payload) for event in page.events)
        fitting = max(1, len(page.events) * _PAGE_BYTES // size) if size else self._most
        far = page.upto < page.head
        self._limit = min(fitting, self._most, self._limit * 2 if far else self._page)
        if not far:
            return
        reading = asyncio.ensure_future(self._write_store.read(self._query, page.upto, self._limit))
        self._ahead = _Ahead(page.upto, self._write_store.identity, reading)

    async def _take(self, member: FollowerRun, page: Slice) -> None:
        if member.failures > self._retries:
            await self._one_by_one(member, page)
            return
        await member.follower.apply(page, member.position)
        self._advance(member, page.upto, len(page.events))

    async def _one_by_one(self, member: FollowerRun, page: Slice) -> None:
        """Find the event that fails by taking each alone; what still fails is set aside."""
        for event in page.events:
            alone = Slice([event], event.position, page.head)
            try:
                await member.follower.apply(alone, member.position)
            except (Conflict, Unavailable):
                raise
            except Exception as error:
                log.exception("%s sets position %d aside", member.follower.name, event.position)
                await member.follower.park(alone, member.position, error)
            self._advance(member, event.position, 1)
        if member.position < page.upto:
            await member.follower.apply(Slice([], page.upto, page.head), member.position)
            self._advance(member, page.upto, 0)

    def _advance(self, member: FollowerRun, position: Position, events: int) -> None:
        member.position = position
        now = self._world.monotonic()
        self._forget_before(now - _RATE_SECONDS)
        self._done.append((now, events))
        self._moved()

    def _forget_before(self, moment: float) -> None:
        while self._done and self._done[0][0] < moment:
            self._done.popleft()

    async def _pause(self) -> None:
        """Where all rest, until the first of them is to be tried again, or somebody asks for something."""
        self._wake.clear()
        pause = min(member.rests_until for member in self.members) - self._world.monotonic()
        asked = self._asked and not any(member.reopen for member in self.members)
        if pause <= 0 or asked or self._new_skips or self._stopping:
            return
        try:
            await self._world.within(pause, self._wake.wait())
        except TimeoutError:
            return


def _union(followers: Sequence[WholeFollower]) -> EventQuery:
    items = dict.fromkeys(item for each in followers for item in each.query.items)
    return EventQuery(tuple(items))


def _drop(ahead: _Ahead) -> None:
    """Nobody waits for it any more, nor for its error."""
    ahead.reading.cancel()
    ahead.reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())


def _settle(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
