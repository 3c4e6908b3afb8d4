"""Run a policy on an event: call its function, and send the commands it returns, or say which are due later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.domain.actor import Actor, actor_of
from twofold.domain.command_ids import RUNTIME, command_id_of_policy, derived_id
from twofold.domain.decision import Context
from twofold.domain.envelope import Origin
from twofold.domain.event_query import EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.policy import WHOLE_POLICY, BoundPolicy, Later, causation_depth
from twofold.errors import Conflict, FunctionFailed, Rejected
from twofold.synchronization.causation import TooDeep
from twofold.synchronization.due_queue import DueQueue
from twofold.synchronization.policy_rows import DUE, Answered, Due, RejectedCommand
from twofold.synchronization.policy_storage import PolicyStorage, SendWith
from twofold.world import World, microseconds
from twofold.write_store.port import RowWrite

log = logging.getLogger(__name__)

T = TypeVar("T")

_SECOND = 1_000_000
_ACTOR = Actor(f"{RUNTIME}policy")


class Sent(Protocol):
    """What the command side answers. `repeated`: the command and its rows were written before."""

    @property
    def repeated(self) -> bool: ...


class Send(Protocol):
    """How the command of a policy reaches the command side, with the rows that are written in one commit with it."""

    def __call__(self, command: Any, command_id: str, origin: Origin, rows: Sequence[RowWrite]) -> Awaitable[Sent]: ...


Advance = Callable[[Answered, Mapping[str, Due], SendWith], Awaitable[Rejected | None]]
"""Sends a command, and writes with it how far an event is answered, and what is due later."""


class Reply(NamedTuple):
    """One of the commands (or a Later) with which a policy answers an event, its id and its causation depth."""

    command: Any
    command_id: str
    depth: int


class CommandSender:
    """Sends the commands of one policy, now or when they are due, down to a causation depth of `max_depth`."""

    def __init__(
        self,
        policy: str,
        commands: Mapping[str, type],
        messages: MessageCodec,
        send: Send,
        max_depth: int,
        world: World,
    ) -> None:
        self.policy = policy
        self._world = world
        self._commands = commands
        self._names = {command: name for name, command in commands.items()}
        self._messages = messages
        self._send = send
        self._max_depth = max_depth

    def check(self, answer: object) -> None:
        """FunctionFailed, with the name of the policy, if it cannot answer an event with this."""
        command: object = answer.command if isinstance(answer, Later) else answer
        if type(command) not in self._names:
            raise FunctionFailed(
                f"The policy '{self.policy}'",
                f"returned {type(answer).__name__}, but a policy returns a command that a decision takes, a Later of "
                "one, a list of both, or None",
                f"{answer!r:.100}",
            )

    def depth(self, command: Any, recorded: RecordedEvent) -> int:
        """The causation depth of a command (or a Later) that answers this event. TooDeep if it is beyond the limit."""
        depth = causation_depth(command, recorded.metadata.depth)
        if depth > self._max_depth:
            name = type(command.command if isinstance(command, Later) else command).__name__
            raise TooDeep(recorded, name, depth, self._max_depth)
        return depth

    def due(self, later: Later, recorded: RecordedEvent, depth: int, key: str) -> Due:
        """The command of this depth that answers an event, to be sent later."""
        metadata = recorded.metadata
        at = metadata.time + int(later.after.total_seconds() * _SECOND)
        body = msgspec.Raw(self._messages.encode(later.command))
        name = self._names[type(later.command)]
        origin = metadata.correlation_id, recorded.id, depth
        return Due(at, name, body, *origin, key=key, position=recorded.position, traceparent=recorded.traceparent)

    def rejected(self, command_id: str, name: str, position: Position, rejection: Rejected) -> RejectedCommand:
        """The record of a command that a rule rejected."""
        now = microseconds(self._world.now())
        return RejectedCommand.of(command_id, name, position, rejection.code, rejection.reason, now)

    def name_of(self, command: object) -> str:
        """The stored name of a command."""
        return self._names[type(command)]

    async def send_due(self, due: Due, command_id: str, rows: Sequence[RowWrite]) -> Rejected | None:
        """Send a command that is due, as `send` does. KeyError or InvalidMessage if the code no longer knows it."""
        command = self._messages.decode(self._commands[due.command], bytes(due.body))
        origin = Origin(_ACTOR, due.correlation_id, due.causation_id, due.depth, due.traceparent)
        return await self.send(command, command_id, origin, rows)

    async def send(self, command: Any, command_id: str, origin: Origin, rows: Sequence[RowWrite]) -> Rejected | None:
        """Write a command and `rows` in one commit. If a rule rejected it, nothing is written: the rejection.

        Conflict where the command was written before, or where one of the rows is not as expected.
        """
        try:
            sent = await _not_cancelled(self._send(command, command_id, origin, rows))
        except Rejected as error:
            # A rejection is an answer: sending again would not change it.
            log.info("%s: %s was rejected: %s", self.policy, type(command).__name__, error)
            return error
        if sent.repeated:
            raise Conflict(f"{self.policy}: the command {command_id} was written before.")
        return None


class Reaction:
    """Runs the function of a policy. A repeat for an event sends only the commands that were not sent before."""

    def __init__(self, policy: BoundPolicy, log_id: str, events: EventCodec, sender: CommandSender) -> None:
        self.policy = policy.name
        self.key_of = policy.key_of
        self.events_of = policy.events_of
        self.query: EventQuery = policy.events_of(WHOLE_POLICY)
        self.secret = b""
        """The secret of the log, for the ids of reactions."""
        self._keyed = policy.keyed
        self._react = policy.react
        self._log_id = log_id
        self._events = events
        self._sender = sender

    async def answer(self, recorded: RecordedEvent) -> list[Reply]:
        """What the policy answers an event with. TooDeep if one of the commands is deeper than allowed."""
        event = self._events.decode(recorded)
        # The position too: the id of an event may be used again once its command id is forgotten.
        key = derived_id(self.secret, "reaction", self._log_id, self.policy, recorded.position, recorded.id)
        context = Context(key, recorded.time, actor_of(recorded.actor), secret=self.secret)
        answer = await _as_error(self.policy, _not_cancelled(self._react(event, recorded, context)))
        commands: list[Any] = [] if answer is None else [answer]
        if isinstance(answer, list):
            commands = answer  # pyright: ignore[reportUnknownVariableType]
        # All of them, before the first is sent.
        for command in commands:
            self._sender.check(command)
        return [
            Reply(command, command_id_of_policy(key, i), self._sender.depth(command, recorded))
            for i, command in enumerate(commands)
        ]

    async def send(
        self, recorded: RecordedEvent, replies: Sequence[Reply], answered: Answered, advance: Advance
    ) -> tuple[Answered, dict[str, Due]]:
        """Send the commands that are due now, but not those that are sent: how far the event is `answered` after that.

        And what is due later, as far as `advance` has not stored it with a command.
        """
        later: dict[str, Due] = {}
        key = self.key_of(recorded) if self._keyed else ""
        for i, (command, command_id, depth) in enumerate(replies):
            if i < answered.sent:
                continue
            if isinstance(command, Later):
                later[f"{DUE}{command_id}"] = self._sender.due(command, recorded, depth, key)
                continue
            origin = Origin(_ACTOR, recorded.metadata.correlation_id, recorded.id, depth, recorded.traceparent)
            after = Answered(i + 1, i + 1 == len(replies), answered.rejected)
            rejection = await advance(after, later, partial(self._sender.send, command, command_id, origin))
            if rejection is None:
                answered = after
                later = {}
            else:
                name = self._sender.name_of(command)
                record = self._sender.rejected(command_id, name, recorded.position, rejection)
                answered = msgspec.structs.replace(answered, rejected=(*answered.rejected, record))
        return answered, later


class Advancing:
    """Sends the commands that answer the event at a position. What is due later is known once it is stored."""

    def __init__(self, storage: PolicyStorage, due: DueQueue, position: Position, *, parked: bool) -> None:
        self._storage = storage
        self._due = due
        self._position = position
        self._parked = parked

    async def __call__(self, answered: Answered, later: Mapping[str, Due], send: SendWith) -> Rejected | None:
        rejection = await self._storage.send(self._position, answered, later, send, parked=self._parked)
        if rejection is None:
            self._due.add(later)
        return rejection


async def _as_error(policy: str, reaction: Awaitable[T]) -> T:
    """Await the reaction of a policy. What would end the process, such as SystemExit, is an error of the policy."""
    try:
        return await reaction
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        details = f"{type(error).__name__}: {error}"
        raise FunctionFailed(f"The policy '{policy}'", f"raised {type(error).__name__}", details) from error


async def _not_cancelled(awaitable: Awaitable[T]) -> T:
    """Await something. RuntimeError if only that is cancelled, and not the task that awaits it.

    A policy may await a task that it has cancelled: CancelledError would end the follower without any report.
    """
    try:
        return await awaitable
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("A task that the policy awaited was cancelled.") from error
