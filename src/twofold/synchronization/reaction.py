"""Run a policy on an event: call its function, send the commands it returns, and hand back those that are due later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.domain.command_ids import command_id_of_policy, derived_id
from twofold.domain.decision import Context
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import RecordedEvent
from twofold.domain.policy import BoundPolicy, Later, causation_depth
from twofold.errors import Conflict, FunctionFailed, Rejected
from twofold.synchronization.causation import TooDeep
from twofold.synchronization.policy_storage import DUE, Due, SendWith
from twofold.write_store.port import RowWrite

log = logging.getLogger(__name__)

T = TypeVar("T")

_SECOND = 1_000_000


class Origin(NamedTuple):
    """What caused a command: the first command of all, the event that is answered, and the causation depth."""

    correlation_id: str
    causation_id: str
    depth: int


class Sent(Protocol):
    """What the command side answers. `repeated`: the command and its rows were written before."""

    @property
    def repeated(self) -> bool: ...


class Send(Protocol):
    """How the command of a policy reaches the command side, with the rows that are written in one commit with it."""

    def __call__(
        self,
        command: Any,
        command_id: str,
        *,
        correlation_id: str,
        causation_id: str,
        depth: int,
        rows: Sequence[RowWrite],
    ) -> Awaitable[Sent]: ...


Advance = Callable[[int, Mapping[str, Due], SendWith], Awaitable[bool]]
"""Sends a command, and writes with it that so many commands of an event are sent, and what is due later."""


class CommandSender:
    """Sends the commands of one policy, now or when they are due, down to a causation depth of `max_depth`."""

    def __init__(
        self, policy: str, commands: Mapping[str, type], messages: MessageCodec, send: Send, max_depth: int
    ) -> None:
        self._policy = policy
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
                f"The policy '{self._policy}'",
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

    def due(self, later: Later, recorded: RecordedEvent, depth: int) -> Due:
        """The command of this depth that answers an event, to be sent later."""
        metadata = recorded.metadata
        at = metadata.time + int(later.after.total_seconds() * _SECOND)
        body = msgspec.Raw(self._messages.encode(later.command))
        return Due(at, self._names[type(later.command)], body, metadata.correlation_id, recorded.id, depth)

    async def send_due(self, due: Due, command_id: str, rows: Sequence[RowWrite]) -> bool:
        """Send a command that is due, as `send` does. KeyError or InvalidMessage if the code no longer knows it."""
        command = self._messages.decode(self._commands[due.command], bytes(due.body))
        origin = Origin(due.correlation_id, due.causation_id, due.depth)
        return await self.send(command, command_id, origin, rows)

    async def send(self, command: Any, command_id: str, origin: Origin, rows: Sequence[RowWrite]) -> bool:
        """Whether the command and `rows` are written, in one commit. If not, it was rejected.

        Conflict where the command was written before, or where one of the rows is not as expected.
        """
        try:
            sent = await _not_cancelled(self._send(command, command_id, **origin._asdict(), rows=rows))
        except Rejected as error:
            # A rejection is an answer: sending again would not change it.
            log.info("%s: %s was rejected: %s", self._policy, type(command).__name__, error)
            return False
        if sent.repeated:
            raise Conflict(f"{self._policy}: the command {command_id} was written before.")
        return True


class Reaction:
    """Runs the function of a policy. A repeat for an event sends only the commands that were not sent before."""

    def __init__(self, policy: BoundPolicy, log_id: str, events: EventCodec, sender: CommandSender) -> None:
        self.policy = policy.name
        self.query = EventQuery((QueryItem(policy.types),))
        self.secret = b""
        """The secret of the log, for the ids of reactions."""
        self._react = policy.react
        self._log_id = log_id
        self._events = events
        self._sender = sender

    async def react_to(self, recorded: RecordedEvent, sent: int, later: dict[str, Due], advance: Advance) -> None:
        """React to an event, and send the commands that are due now, but not the first `sent` ones.

        What is due later is added to `later`, and taken out again once `advance` has stored it with a command. TooDeep,
        and nothing is sent, if one of the commands is deeper than allowed.
        """
        event = self._events.decode(recorded)
        # The position too: the id of an event may be used again once its command id is forgotten.
        key = derived_id(self.secret, "reaction", self._log_id, self.policy, recorded.position, recorded.id)
        context = Context(key, recorded.time, recorded.actor, secret=self.secret)
        answer = await _as_error(self.policy, _not_cancelled(self._react(event, recorded, context)))
        commands: list[Any] = [] if answer is None else [answer]
        if isinstance(answer, list):
            commands = answer  # pyright: ignore[reportUnknownVariableType]
        # All of them, before the first is sent.
        for command in commands:
            self._sender.check(command)
        depths = [self._sender.depth(command, recorded) for command in commands]
        for i, (command, depth) in enumerate(zip(commands, depths, strict=True)):
            if i < sent:
                continue
            command_id = command_id_of_policy(key, i)
            if isinstance(command, Later):
                later[f"{DUE}{command_id}"] = self._sender.due(command, recorded, depth)
                continue
            origin = Origin(recorded.metadata.correlation_id, recorded.id, depth)
            if await advance(i + 1, later, partial(self._sender.send, command, command_id, origin)):
                later.clear()


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
