"""In charge of one policy: reactions in order, commands with derived ids, what is due later kept beside them."""

import asyncio
import heapq
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.domain.decision import Context
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Metadata, Position, RecordedEvent
from twofold.domain.process import BoundPolicy, Later
from twofold.errors import Conflict, InvalidMessage, Rejected, TwofoldError, Unavailable
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import Parked
from twofold.synchronization.follower import Skips, told
from twofold.world import World, microseconds
from twofold.write_store.port import Append, Outcome, Row, RowWrite, Slice, WriteStore

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDS = uuid.UUID("0b9f0f0e-64a5-5d0c-8f53-6d1f4a2b7c31")
_CHECKPOINTS = "checkpoints"
"""One space for all, so that whoever looks from outside finds them without knowing the policies."""
_POLICY = "policy:"
_PARKED = "parked:"
"""A space apart, so that to ask what is parked is not to read all that is due."""
_SECOND = 1_000_000
_TRIES_SHOWN = 5
"""After so many tries a due command that cannot be sent is shown among what is set aside; it is tried all the same."""


class Send(Protocol):
    """How a policy's command reaches the command side."""

    def __call__(
        self, command: Any, command_id: str, *, correlation_id: str, causation_id: str
    ) -> Awaitable[object]: ...


class Due(msgspec.Struct, frozen=True):
    """A command to be sent at `at` (microseconds since 1970, UTC), as it is kept in the log's rows."""

    at: int
    command: str
    body: msgspec.Raw
    correlation_id: str
    causation_id: str


class _Again(NamedTuple):
    """When what is parked as `key` is tried again, by the monotonic clock, after so many tries."""

    at: float
    position: Position
    key: str
    tries: int


class Reactor:
    """Runs a policy once over each event.

    The checkpoint and the commands due later are rows of the write store, written together: read models may be thrown
    away and rebuilt, what a policy has done may not be done again. A page that is repeated after a crash sends commands
    under the same ids, and effects outside under the same key.
    """

    kind: Literal["projection", "policy"] = "policy"
    generation = 0
    partition = WHOLE

    def __init__(
        self,
        policy: BoundPolicy,
        write_store: WriteStore,
        events: EventCodec,
        messages: MessageCodec,
        commands: Mapping[str, type],
        send: Send,
        append: Callable[[Append], Awaitable[Outcome]],
        world: World,
        *,
        takes_up: bool = True,
    ) -> None:
        self.name = policy.name
        self.query = EventQuery((QueryItem(policy.types),))
        self._policy = policy
        self._write_store = write_store
        self._events = events
        self._messages = messages
        self._commands = commands
        self._names = {kind: name for name, kind in commands.items()}
        self._send = send
        self._append_rows = append
        self._world = world
        self._takes_up = takes_up
        self._space = f"{_POLICY}{policy.name}"
        self._aside = f"{_PARKED}{policy.name}"
        self._version = 0
        self._position: Position = 0
        self._parked: dict[str, Parked] = {}
        self._due: list[tuple[int, str, Due]] = []
        self._late: dict[str, int] = {}
        self._taken_away: set[str] = set()
        self._again: list[_Again] = []
        self._new_due = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None

    async def open(self) -> Position:
        # In this order: what another owner writes meanwhile moves the checkpoint, and then nothing of ours is saved.
        checkpoint = (await self._write_store.rows(_CHECKPOINTS)).get(self._space)
        rows = await self._write_store.rows(self._space)
        if checkpoint is None:
            head = (await self._write_store.read(EventQuery())).head
            position = 0 if self._policy.from_start else head
            self._version = 0
            await self._write(position, [])
        else:
            self._version = checkpoint.version
            self._position = position = msgspec.json.decode(checkpoint.value, type=int)
        due = {k: msgspec.json.decode(row.value, type=Due) for k, row in rows.items() if k.startswith("due:")}
        self._due = [(each.at, key, each) for key, each in due.items()]
        heapq.heapify(self._due)
        self._new_due.set()
        self._parked = {each.key: each for each in _parked(await self._write_store.rows(self._aside))}
        # The code, or the world outside, may have been mended since.
        now = self._world.monotonic()
        self._again = sorted(
            _Again(now, each.position, each.key, 0) for each in self._parked.values() if self._takes_up
        )
        if self._timer is None:
            self._timer = asyncio.create_task(self._send_due(), name=f"twofold-{self.name}-due")
        return position

    async def apply(self, page: Slice, before: Position) -> None:
        later: list[tuple[str, Due]] = []
        for recorded in page.events:
            later += await self._react(recorded)
        await self._write(page.upto, [_insert(self._space, key, due) for key, due in later])
        self._remember(later)

    async def set_aside(self, page: Slice, before: Position, error: Exception) -> None:
        # A policy keeps no state between events, so each event is a sequence of its own.
        (recorded,) = page.events
        parked = Parked(f"parked:{recorded.position}", recorded.position, told(error), microseconds(self._world.now()))
        await self._write(page.upto, [_insert(self._aside, parked.key, parked)])
        self._parked[parked.key] = parked

    async def mend(self, what: Literal["retry", "repair"], key: str, at: Position) -> str:
        parked = self._parked.get(key)
        if parked is None:
            raise InvalidMessage(f"Nothing of the policy '{self.name}' is parked as '{key}'.", field="key")
        if what == "repair":
            raise InvalidMessage(f"'{self.name}' is a policy: it has no rows to repair.", field="what")
        if key.startswith("due:"):
            return await self._send_again(key)
        try:
            later = await self._react_again(parked)
        except (Conflict, Unavailable):
            raise
        except Exception as error:
            log.exception("%s: position %d stays set aside", self.name, parked.position)
            return f"It still fails: {told(error)}"
        if later is None:
            return "The policy no longer takes this event; it stays set aside."
        await self._free(parked, later)
        return "It is done."

    async def skip(self, key: str, record: Sequence[RowWrite]) -> None:
        """Pass over what is parked as `key`, and put that on `record`: both, or nothing and Conflict."""
        space = self._space if key.startswith("due:") else self._aside
        await self._write(self._position, [RowWrite(space, key, None, 1), *record])
        self._parked.pop(key, None)
        self._due = [each for each in self._due if each[1] != key]
        heapq.heapify(self._due)
        # One that is being sent at this moment is not in the list, and must not come back to it.
        self._taken_away.add(key)

    def pass_over(self, skips: Skips) -> None:
        """Nothing: `skip` has taken it away already."""

    def skipped(self, key: str) -> Position | None:
        """The position of the event that a `skip` of this key would pass over."""
        parked = self._parked.get(key)
        return None if parked is None else parked.position

    async def parked(self) -> tuple[Parked, ...]:
        return tuple(self._parked.values())

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)

    async def _react(self, recorded: RecordedEvent) -> list[tuple[str, Due]]:
        event = self._events.decode(recorded)
        command_id = str(uuid.uuid5(_IDS, f"{self._write_store.identity.log}/{self.name}/{recorded.id}"))
        context = Context(command_id, recorded.time, recorded.actor)
        wanted = _as_list(await _not_cancelled(self._policy.react(event, recorded, context)))
        correlation_id = recorded.metadata.correlation_id
        later: list[tuple[str, Due]] = []
        for i, each in enumerate(wanted):
            its_id = command_id if i == 0 else f"{command_id}.{i}"
            if isinstance(each, Later):
                at = recorded.metadata.time + int(each.after.total_seconds() * _SECOND)
                body = msgspec.Raw(self._messages.encode(each.command))
                due = Due(at, self._names[type(each.command)], body, correlation_id, recorded.id)
                later.append((f"due:{its_id}", due))
            else:
                await self._deliver(each, its_id, correlation_id, recorded.id)
        return later

    async def _deliver(self, command: Any, command_id: str, correlation_id: str, causation_id: str) -> None:
        try:
            sent = self._send(command, command_id, correlation_id=correlation_id, causation_id=causation_id)
            await _not_cancelled(sent)
        except Rejected as error:
            # A rule said no: that is an answer, and asking again would not change it.
            log.info("%s: %s was rejected: %s", self.name, type(command).__name__, error)

    async def _write(self, position: Position, rows: Sequence[RowWrite]) -> None:
        checkpoint = RowWrite(_CHECKPOINTS, self._space, msgspec.json.encode(position), self._version)
        await self._append([checkpoint, *rows])
        self._version += 1
        self._position = position

    async def _append(self, rows: Sequence[RowWrite]) -> None:
        metadata = Metadata(microseconds(self._world.now()), self.name, self.name)
        outcome = await self._append_rows(Append(metadata, rows=tuple(rows)))
        if isinstance(outcome, Conflict):
            raise outcome

    def _remember(self, later: Sequence[tuple[str, Due]]) -> None:
        for key, due in later:
            self._remember_at(due.at, key, due)

    def _remember_at(self, at: int, key: str, due: Due) -> None:
        heapq.heappush(self._due, (at, key, due))
        self._new_due.set()

    async def tend(self, at: Position) -> float | None:
        if self._again and self._again[0].at <= self._world.monotonic():
            again = heapq.heappop(self._again)
            if (parked := self._parked.get(again.key)) is not None:
                await self._try_again(parked, again.tries + 1)
        return max(0.0, self._again[0].at - self._world.monotonic()) if self._again else None

    async def _try_again(self, parked: Parked, tries: int) -> None:
        """React again to what was set aside; once more later where the world outside is away."""
        try:
            later = await self._react_again(parked)
            if later is None:
                log.warning("%s no longer takes the event at %d; it stays set aside", self.name, parked.position)
                return
        except (Conflict, Unavailable) as error:
            log.warning("%s: position %d is tried again later: %s", self.name, parked.position, error)
            at = self._world.monotonic() + _pause(tries)
            heapq.heappush(self._again, _Again(at, parked.position, parked.key, tries))
            return
        except Exception:
            log.exception("%s: position %d stays set aside", self.name, parked.position)
            return
        try:
            await self._free(parked, later)
        except Unavailable:
            heapq.heappush(self._again, _Again(self._world.monotonic(), parked.position, parked.key, tries))
            raise

    async def _react_again(self, parked: Parked) -> "list[tuple[str, Due]] | None":
        """What is to be sent later. None where the policy does not take the event any more."""
        page = await self._write_store.read(self.query, parked.position - 1, 1)
        if [each.position for each in page.events] != [parked.position]:
            return None
        return await self._react(page.events[0])

    async def _free(self, parked: Parked, later: Sequence[tuple[str, Due]]) -> None:
        unpark = RowWrite(self._aside, parked.key, None, 1)
        await self._write(self._position, [unpark, *(_insert(self._space, key, due) for key, due in later)])
        self._remember(later)
        del self._parked[parked.key]

    async def _send_again(self, key: str) -> str:
        """Put a due command that could not be sent back among those that are due."""
        row = (await self._write_store.rows(self._space)).get(key)
        self._due = [each for each in self._due if each[1] != key]
        heapq.heapify(self._due)
        self._late.pop(key, None)
        if row is not None:
            self._remember([(key, msgspec.json.decode(row.value, type=Due))])
        self._parked.pop(key, None)
        return "It is sent again now."

    async def _send_due(self) -> None:
        while True:
            self._new_due.clear()
            if not self._due:
                await self._new_due.wait()
                continue
            wait = (self._due[0][0] - microseconds(self._world.now())) / _SECOND
            if wait > 0:
                try:
                    await self._world.within(min(wait, 3600.0), self._new_due.wait())
                except TimeoutError:
                    continue
            else:
                await self._send_next()

    async def _send_next(self) -> None:
        # Taken off before anything is awaited: meanwhile others may become due, and go before it.
        _, key, due = heapq.heappop(self._due)
        try:
            command = self._messages.decode(self._commands[due.command], bytes(due.body))
            await self._deliver(command, key.removeprefix("due:"), due.correlation_id, due.causation_id)
            await self._take_off(key)
        except (Conflict, Unavailable) as error:
            self._put_back(key, due, error)
        except Exception as error:
            # Most likely the code no longer knows the command. It is kept, shown, and sent at the next start.
            log.exception("%s: the due command %s cannot be sent", self.name, due.command)
            self._late.pop(key, None)
            if key not in self._taken_away:
                self._parked[key] = Parked(key, 0, told(error), microseconds(self._world.now()))
        else:
            if self._late.pop(key, None) is not None:
                self._parked.pop(key, None)

    def _put_back(self, key: str, due: Due, error: TwofoldError) -> None:
        """Try it again in a while, longer each time: others that are due are not to wait behind it."""
        if key in self._taken_away:
            return
        tries = self._late[key] = self._late.get(key, 0) + 1
        log.warning("%s: a due command is sent again soon: %s", self.name, error)
        now = microseconds(self._world.now())
        if tries >= _TRIES_SHOWN:
            self._parked[key] = Parked(key, 0, f"Tried {tries} times: {told(error)}"[:500], now)
        if all(key != other for _, other, _ in self._due):
            self._remember_at(now + _pause(tries) * _SECOND, key, due)

    async def _take_off(self, key: str) -> None:
        try:
            await self._append([RowWrite(self._space, key, None, 1)])
        except Conflict:
            log.info("%s: %s was sent before", self.name, key)


async def _not_cancelled(waiting: Awaitable[T]) -> T:
    """What comes of it. RuntimeError where it is cancelled, but not with the task that waits for it.

    So it is with whoever awaits a task of their own that was cancelled: to end here would be to stop without a word.
    """
    try:
        return await waiting
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("what it waited for was cancelled") from error


def _pause(tries: int) -> int:
    """How many seconds to let the world outside come back, after so many tries."""
    return min(1 << min(tries - 1, 6), 60)


async def policy_checkpoints(write_store: WriteStore) -> dict[str, tuple[Position, tuple[Parked, ...]]]:
    """The checkpoint and the parked events of every policy that ever ran on this log, by its name."""
    found: dict[str, tuple[Position, tuple[Parked, ...]]] = {}
    for space, row in (await write_store.rows(_CHECKPOINTS)).items():
        position = msgspec.json.decode(row.value, type=int)
        name = space.removeprefix(_POLICY)
        found[name] = position, _parked(await write_store.rows(f"{_PARKED}{name}"))
    return found


def _parked(rows: Mapping[str, Row]) -> tuple[Parked, ...]:
    parked = [msgspec.json.decode(row.value, type=Parked) for row in rows.values()]
    return tuple(sorted(parked, key=lambda each: each.position))


def _as_list(answer: Any) -> list[Any]:
    if isinstance(answer, list):
        return answer  # pyright: ignore[reportUnknownVariableType]
    return [] if answer is None else [answer]


def _insert(space: str, key: str, value: msgspec.Struct) -> RowWrite:
    return RowWrite(space, key, msgspec.json.encode(value), 0)
