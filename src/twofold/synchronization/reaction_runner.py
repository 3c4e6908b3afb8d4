"""Runs the reactions of a policy: the events of different keys at the same time, those of one key one after another."""

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from msgspec.structs import replace

from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Parked
from twofold.signal import Signal
from twofold.synchronization.causation import TooDeep
from twofold.synchronization.due_queue import DueQueue
from twofold.synchronization.follower_observer import FollowerObserver
from twofold.synchronization.key_backlog import KeyBacklog
from twofold.synchronization.key_lanes import KeyLane, KeyLanes
from twofold.synchronization.outage import Outage
from twofold.synchronization.outage_breaker import ReactionFailure, is_outside
from twofold.synchronization.policy_rows import Answered, Due, ParkedReaction
from twofold.synchronization.policy_saver import PolicySaver
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import Advancing, Reaction
from twofold.synchronization.reaction_failures import ReactionFailures, RunnerLimits
from twofold.world import World, microseconds

log = logging.getLogger(__name__)

_TURNS = 20
"""After so many events in a row of one key the other tasks of the loop have a turn."""
_WINDOWS_IN_OUTAGE = 10
"""In an outage so many times more events are read: those of other types go on, and the checkpoint stays."""


class ReactionParts(NamedTuple):
    """What a runner works with."""

    reaction: Reaction
    storage: PolicyStorage
    saver: PolicySaver
    due: DueQueue
    observer: FollowerObserver


class ReactionRunner:
    """Answers the events that it is given, and parks the key of one that keeps failing.

    `changed` fires when there is room for more events, or when it has stopped: `stopped` says why. Then it answers
    nothing more until it is opened again.
    """

    def __init__(self, parts: ReactionParts, world: World, limits: RunnerLimits, changed: Signal) -> None:
        self.stopped: Exception | None = None
        self.held: Callable[[], bool] = lambda: True
        """Whether this node may still believe that it holds its leases. Without them no reaction is started."""
        self._reaction, self._storage, self._saver, self._due, self._observer = parts
        self._world = world
        self._limits = limits
        self._changed = changed
        self._backlog = KeyBacklog(self._reaction, self._storage)
        self._lanes = KeyLanes()
        self._failures = ReactionFailures(self._reaction.policy, self._lanes, world, limits)
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._wake = asyncio.Event()
        self._full = False
        self._closed = False

    # ------------------------------------------------------------------------------------------- for the reactor

    @property
    def parked(self) -> dict[str, Parked]:
        """The parked keys, in the order of the log."""
        parked = [lane.parked for lane in self._lanes if lane.parked is not None]
        return {each.key: each for each in sorted(parked, key=lambda each: each.position)}

    @property
    def outage(self) -> Outage | None:
        """What the policy waits for; None if it does not."""
        return self._failures.outage

    @property
    def full(self) -> bool:
        """Whether there is no room for more events now."""
        self._full = len(self._saver.window) >= self._room
        return self._full

    def open(self, parked: Mapping[str, ParkedReaction], *, retry: bool) -> None:
        """Begin with the keys that are parked. `retry`: whether to retry them without a request."""
        self.stopped, self._closed = None, False
        self._lanes.clear()
        self._failures.clear()
        for key, reaction in parked.items():
            lane = self._lanes.lane(key)
            # The code, or a system outside, may have been repaired since.
            lane.reaction, lane.retries = reaction, retry
            self._lanes.make_ready(lane)

    async def run(self) -> None:
        """Start what is to be started, for ever."""
        while True:
            self._wake.clear()
            at = self._lanes.wake(self._world.monotonic())
            self._start()
            if self._may_start_more:
                at = min((moment for moment in (at, *self._probes()) if moment is not None), default=None)
            if at is None or not self._may_start:
                await self._wake.wait()
            elif (seconds := at - self._world.monotonic()) > 0:
                try:
                    await self._world.within(seconds, self._wake.wait())
                except TimeoutError:
                    continue
            else:
                await self._world.sleep(0)

    async def close(self) -> None:
        """Cancel what is under way."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def stop(self, error: Exception) -> None:
        """Answer nothing more: `error` says why."""
        if self.stopped is None:
            self.stopped = error
            self._changed.fire()

    def go_on(self) -> None:
        """Start what may be started by now. To be called when `held` has become true again."""
        if self._lanes.ready_types or self._lanes.any_resting:
            self._wake.set()

    def take(self, recorded: RecordedEvent) -> None:
        """Answer an event that is beyond the checkpoint, after the earlier ones of its key."""
        position, key = recorded.position, self._reaction.key_of(recorded)
        window = self._saver.window
        window.add(position)
        lane = self._lanes.lane(key)
        known = self._storage.answered(position, key)
        if lane.reaction is not None:
            # Also if an earlier process has answered it: it had come further with the key than it had saved.
            lane.count(position)
            self._storage.keep(position)
            self._saver.park(key, lane.reaction, position)
        elif known.done:
            self._saver.finish(position, known, {})
        else:
            lane.events.append(recorded)
        self._lanes.make_ready(lane)
        self._start()

    def retry(self, key: str) -> "asyncio.Task[str] | None":
        """Begin to answer the event that a key is parked at. The task gives a sentence that says what happened.

        It is cancelled when the runner is closed, or the event is skipped. None if the key is being retried already.
        """
        lane = self._lanes.find(key)
        if lane is None or lane.running:
            return None
        if not self.held():
            raise Unavailable("This node does not hold its leases at the moment. Try again.")
        # First this: what runs is not started by the end of its rest.
        lane.running = True
        self._lanes.take_out(lane)
        self._lanes.end_rest(lane)
        task = asyncio.create_task(self._retry(lane), name=f"twofold-{self._reaction.policy}-retry")
        self._tasks[key] = task
        return task

    async def pass_over(self, key: str, position: Position) -> tuple[KeyLane, ParkedReaction | None]:
        """The lane of a key that is parked at a position, and how it is to be parked without the event there.

        Nothing is started for the key before `passed_over` or `not_passed_over`. Conflict if it is not parked there any
        more.
        """
        lane = self._lanes.lane(key)
        lane.leaving = True
        try:
            while (task := self._tasks.get(key)) is not None:
                # A command that is being written is written all the same: what is known of the event must say so.
                if not lane.sending:
                    task.cancel()
                await asyncio.wait([task])
                if self._tasks.get(key) is task:
                    # It was cancelled before it began.
                    del self._tasks[key]
        finally:
            lane.leaving = False
        lane.running = True
        self._lanes.take_out(lane)
        try:
            if lane.parked is None or lane.parked.position != position:
                # The reaction ended in spite of the cancellation.
                raise Conflict(f"'{key}' is not parked at position {position} any more.")
            return lane, await self._backlog.after_first(lane)
        except BaseException:
            self.not_passed_over(lane)
            raise

    def passed_over(self, lane: KeyLane, reaction: ParkedReaction | None) -> None:
        """The event that a key is parked at is skipped: go on with the next one."""
        lane.running = False
        lane.go_on(reaction)
        self._lanes.end_rest(lane)
        self._lanes.make_ready(lane)
        self._wake.set()

    def not_passed_over(self, lane: KeyLane) -> None:
        """The event that a key is parked at is not skipped: the key stays as it was."""
        lane.running = False
        self._lanes.make_ready(lane)
        self._wake.set()

    # ------------------------------------------------------------------------------------------- the turns

    def _start(self) -> None:
        breaker = self._failures.breaker
        while self._may_start_more and (lane := self._lanes.next_ready(breaker.may_begin)) is not None:
            lane.running = True
            breaker.begin(lane.first_type)
            self._tasks[lane.key] = asyncio.create_task(self._run(lane), name=f"twofold-{self._reaction.policy}-react")

    def _probes(self) -> list[float | None]:
        """When the next probes may begin, of the types that wait for one."""
        return [self._failures.breaker.probe_at(kind) for kind in self._lanes.ready_types]

    @property
    def _room(self) -> int:
        """How many events may be read beyond the checkpoint now."""
        return self._limits.window_events * (_WINDOWS_IN_OUTAGE if self._failures.breaker.open else 1)

    @property
    def _may_start_more(self) -> bool:
        """Whether one more key may run."""
        return self._may_start and len(self._tasks) < self._limits.policy_concurrency

    @property
    def _may_start(self) -> bool:
        return not self._closed and self.stopped is None and self.held()

    async def _run(self, lane: KeyLane) -> None:
        """Answer events of a key: as many as there are, as long as no other key waits for its turn."""
        turn, breaker = 0, self._failures.breaker
        with self._turn_of(lane):
            while lane.has_work and not (lane.rests or lane.leaving) and self._may_start:
                if lane.first_type is None:
                    await self._backlog.first(lane)
                    if breaker.holds(lane.first_type):
                        break
                await (self._take_first(lane) if lane.reaction is None else self._retry_parked(lane))
                turn += 1
                if breaker.holds(lane.first_type) or any(map(breaker.may_begin, self._lanes.ready_types)):
                    break
                if turn % _TURNS == 0:
                    await self._world.sleep(0)

    async def _retry(self, lane: KeyLane) -> str:
        with self._turn_of(lane):
            outcome = await self._retry_parked(lane)
            # What is answered is saved by then. If that is not possible now, a later save brings it.
            with suppress(Unavailable):
                await self._saver.save()
            return outcome
        raise Unavailable("An error has stopped the policy. It is opened again; then try again.") from self.stopped

    @contextmanager
    def _turn_of(self, lane: KeyLane) -> Generator[None]:
        """The turn of a key that runs. An error in it stops this runner. After it others may begin."""
        cancelled = False
        try:
            yield
        except asyncio.CancelledError:
            cancelled = True
            raise
        except Exception as error:  # noqa: BLE001 - the worker notes it, and opens the follower again
            self.stop(error)
        finally:
            lane.running = False
            self._tasks.pop(lane.key, None)
            if not cancelled:
                self._lanes.make_ready(lane)
                self._start()
            self._wake.set()
            self._tell_room()

    async def _take_first(self, lane: KeyLane) -> None:
        recorded = lane.events[0]
        try:
            result = await self._answer(recorded, lane)
        except TooDeep as error:
            # The others end with this runner. What they have sent is known to the store.
            self.stop(error)
            return
        if not isinstance(result, ReactionFailure):
            lane.events.popleft()
            self._saver.finish(recorded.position, *result)
            self._failures.worked(lane, recorded)
        elif self._failures.is_parked_for(lane, recorded, result):
            self._park(lane, result)

    async def _answer(
        self, recorded: RecordedEvent, lane: KeyLane
    ) -> tuple[Answered, Mapping[str, Due]] | ReactionFailure:
        """Answer an event: how far it is answered, and what is due later. TooDeep if an answer is too deep."""
        position = recorded.position
        answered = self._storage.answered(position, lane.key)
        later: Mapping[str, Due] = {}
        if not answered.done:
            try:
                with self._observer.reaction(self._reaction.policy, recorded):
                    replies = await self._reaction.answer(recorded)
                    lane.sending = True
                    advance = Advancing(self._storage, self._due, position, parked=lane.reaction is not None)
                    answered, later = await self._reaction.send(recorded, replies, answered, advance)
            except TooDeep:
                raise
            except Exception as error:  # noqa: BLE001 - noted, shown and tried again
                if not lane.sending:
                    return ReactionFailure(error, is_outside(error))
                away = isinstance(error, Conflict | Unavailable)
                if away:
                    # If the command was written all the same, this policy has to open again.
                    await self._storage.check(position)
                return ReactionFailure(error, outside=away)
            finally:
                lane.sending = False
            if lane.leaving:
                # It could not be cancelled before.
                raise asyncio.CancelledError
        return answered, later

    # ------------------------------------------------------------------------------------------- what fails

    def _park(self, lane: KeyLane, failure: ReactionFailure) -> None:
        """Park a key at its first event. The others that were read wait behind it."""
        positions = [recorded.position for recorded in lane.events]
        reaction = lane.park(failure.text, microseconds(self._world.now()), retries=failure.outside)
        self._failures.forget(lane)
        self._storage.keep(*positions)
        self._saver.park(lane.key, reaction, *positions)
        text = "%s parked %s at position %d"
        log.error(text, self._reaction.policy, lane.key, positions[0], exc_info=failure.error)
        if lane.retries:
            self._failures.rest(lane, failure)

    async def _retry_parked(self, lane: KeyLane) -> str:
        """Answer the event that a key is parked at. A sentence that says what happened."""
        recorded = await self._backlog.first(lane)
        if recorded is None or lane.reaction is None:
            lane.retries = False
            return "The policy no longer takes this event. It stays parked."
        result: tuple[Answered, Mapping[str, Due]] | ReactionFailure
        try:
            result = await self._answer(recorded, lane)
        except TooDeep as error:
            result = ReactionFailure(error, outside=False)
        if isinstance(result, ReactionFailure):
            self._stays_parked(lane, recorded, result)
            return f"It still fails: {result.text}"
        reaction = await self._backlog.after_first(lane)
        # Without a break in between: what is due later is saved together with the next event of the key.
        lane.go_on(reaction)
        self._saver.finish(recorded.position, *result)
        self._saver.park(lane.key, reaction)
        self._saver.go_past(recorded.position)
        self._failures.worked(lane, recorded)
        if reaction is None:
            return "It is done."
        return f"It is done. {reaction.parked.waiting + 1} later events of this key follow."

    def _stays_parked(self, lane: KeyLane, recorded: RecordedEvent, failure: ReactionFailure) -> None:
        assert lane.reaction is not None
        log.error(
            "%s: %s stays parked at position %d",
            self._reaction.policy,
            lane.key,
            recorded.position,
            exc_info=failure.error,
        )
        self._failures.parked_failed(lane, recorded, failure)
        if lane.reaction.parked.error != failure.text:
            parked = replace(lane.reaction.parked, error=failure.text)
            lane.reaction = replace(lane.reaction, parked=parked)
            self._saver.park(lane.key, lane.reaction)

    def _tell_room(self) -> None:
        if self._full and len(self._saver.window) < self._room:
            self._full = False
            self._changed.fire()
