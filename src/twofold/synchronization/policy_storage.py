"""What a policy keeps in the write store: its checkpoint, its due commands and its parked events.

Each command of a policy is written in one commit with the row that says that it is sent. So it has one effect, however
late it is repeated: the command id need not be remembered for that.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Conflict
from twofold.read_store.port import Parked
from twofold.synchronization.causation import TooDeep, described
from twofold.synchronization.cluster_state import ACTS, OperatorAction, Pause, pause_row
from twofold.world import World, microseconds
from twofold.write_store.log_secret import log_secret
from twofold.write_store.port import Append, LogRow, Outcome, RowWrite, WriteStore

DUE = "due:"
"""Keys of due commands begin with this, and end with the id of the command. Other keys are those of parked events."""
_CHECKPOINTS = "checkpoints"
"""One space for all policies, so that the checkpoints can be read without the names of the policies."""
_POLICY = "policy:"
_PARKED = "parked:"
"""A separate space, so that the parked events can be read without all due commands."""


class Due(msgspec.Struct, frozen=True):
    """A command to send at `at` (microseconds since 1970, UTC), as the row in the write store holds it."""

    at: int
    command: str
    body: msgspec.Raw
    correlation_id: str
    causation_id: str
    depth: int = 0


class _PolicyCheckpoint(msgspec.Struct, frozen=True):
    """The position up to which a policy is done, and how many commands of the next event are sent."""

    position: Position
    sent: int = 0


class _ParkedReaction(msgspec.Struct, frozen=True):
    """A parked event as the row holds it, and how many of its commands are sent."""

    parked: Parked
    sent: int = 0


SendWith = Callable[[Sequence[RowWrite]], Awaitable[bool]]
"""Sends a command that is written in one commit with these rows. Whether they are written: if not, it was rejected."""


class PolicyStorage:
    """Reads and writes the rows of one policy. `append` writes them in one commit with the commands that wait.

    Every write of the reactor also writes the checkpoint, at the version it has read or written last. So of two
    processes that run the same policy only one goes on: the other gets Conflict, and has to open again.
    """

    def __init__(
        self, policy: str, write_store: WriteStore, append: Callable[[Append], Awaitable[Outcome]], world: World
    ) -> None:
        self.log_id = write_store.identity.log
        self._policy = policy
        self._write_store = write_store
        self._append_rows = append
        self._world = world
        self._space = f"{_POLICY}{policy}"
        self._parked_space = f"{_PARKED}{policy}"
        self._version = 0
        self._checkpoint = _PolicyCheckpoint(0)
        self._sent_of_parked: dict[str, int] = {}
        self._in_doubt = False

    @property
    def position(self) -> Position:
        """The position up to which the policy is done."""
        return self._checkpoint.position

    async def open(self, *, from_start: bool) -> Position:
        """The checkpoint; a new policy gets one at position 0 or at the head. Call it before `due` and `parked`.

        If another process changes the rows after this, it moves the checkpoint too, and `save` fails with Conflict.
        """
        row = await self._stored_checkpoint()
        self._in_doubt = False
        if row is None:
            self._version = 0
            await self.save(0 if from_start else (await self._write_store.read(NO_EVENTS)).head)
        else:
            self._version = row.version
            self._checkpoint = msgspec.json.decode(row.value, type=_PolicyCheckpoint)
        return self.position

    async def due(self) -> dict[str, Due]:
        """The due commands by key."""
        rows = (await self._write_store.rows(self._space)).items()
        return {key: msgspec.json.decode(row.value, type=Due) for key, row in rows if key.startswith(DUE)}

    async def parked(self) -> dict[str, Parked]:
        """The parked events by key, in the order of the log."""
        events = _parked(await self._write_store.rows(self._parked_space))
        self._sent_of_parked = {event.parked.key: event.sent for event in events}
        return {event.parked.key: event.parked for event in events}

    async def secret(self) -> bytes:
        """The secret of the log."""
        return await log_secret(self._write_store, self._world)

    async def is_due(self, key: str) -> bool:
        """Whether a command is still due: neither sent nor skipped, by any process."""
        return key in await self._write_store.rows(self._space, [key])

    def sent(self, event: Position | str) -> int:
        """How many commands of an event are sent: of the event at a position, or of the one that is parked as a key."""
        if isinstance(event, str):
            return self._sent_of_parked.get(event, 0)
        return self._checkpoint.sent if event == self.position + 1 else 0

    async def event(self, query: EventQuery, position: Position) -> RecordedEvent | None:
        """The event at a position; None if the query does not select it."""
        events = (await self._write_store.read(query, position - 1, 1)).events
        return next((event for event in events if event.position == position), None)

    async def described(self, error: TooDeep) -> str:
        """The error in sentences that name the events which cause one another."""
        return await described(error, self._write_store)

    async def save(self, position: Position | None, *rows: RowWrite) -> None:
        """Write rows and the checkpoint, all or nothing. Without a position the checkpoint stays where it is."""

        await self._save(self._checkpoint if position is None else _PolicyCheckpoint(position), rows)

    async def pause(self, position: Position, reason: str, *rows: RowWrite) -> None:
        """Pause the policy before the event at `position`, put that on record, and write rows: all or nothing."""
        now = microseconds(self._world.now())
        outcome = f"It is paused: {reason}"
        action = OperatorAction(
            what="pause", name=self._policy, key="", actor=None, at=now, done=True, outcome=outcome, position=position
        )
        record = RowWrite(ACTS, f"{now}-{self._world.new_id()}", msgspec.json.encode(action), 0)
        pause = pause_row("", self._policy, Pause(reason, None, now, position), 0)
        await self._save(_PolicyCheckpoint(position - 1, self.sent(position)), [*rows, pause, record])

    async def send(self, event: Position, sent: int, later: Mapping[str, Due], send: SendWith) -> bool:
        """Send a command, after which `sent` commands of the event at a position are sent. All before it is done.

        What is due `later` is stored with it. The result is that of `send`.
        """
        return await self._write(_PolicyCheckpoint(event - 1, sent), self._due_rows(later), send)

    async def send_parked(self, parked: Parked, sent: int, later: Mapping[str, Due], send: SendWith) -> bool:
        """The same for an event that is parked."""
        # The version of the row stays, so that it can be deleted without knowing how many commands are sent.
        row = RowWrite(self._parked_space, parked.key, msgspec.json.encode(_ParkedReaction(parked, sent)), 1, version=1)
        written = await self._write(self._checkpoint, [row, *self._due_rows(later)], send)
        if written:
            self._sent_of_parked[parked.key] = sent
        return written

    async def park(self, parked: Parked, upto: Position) -> None:
        """Park an event, and move the checkpoint past it."""
        sent = self.sent(parked.position)
        value = msgspec.json.encode(_ParkedReaction(parked, sent))
        await self.save(upto, RowWrite(self._parked_space, parked.key, value, 0))
        self._sent_of_parked[parked.key] = sent

    async def check(self) -> None:
        """Conflict where a write that failed has moved the checkpoint all the same: its answer was lost."""
        if self._in_doubt:
            row = await self._stored_checkpoint()
            if row is None or row.version != self._version:
                raise Conflict(f"The checkpoint of the policy '{self._policy}' has moved. It is read again.")
            self._in_doubt = False

    async def _save(self, checkpoint: _PolicyCheckpoint, rows: Sequence[RowWrite]) -> None:
        async def write(all_rows: Sequence[RowWrite]) -> bool:
            await self.append(*all_rows)
            return True

        await self._write(checkpoint, rows, write)

    async def _write(self, checkpoint: _PolicyCheckpoint, rows: Sequence[RowWrite], write: SendWith) -> bool:
        await self.check()
        self._in_doubt = True
        moved = RowWrite(_CHECKPOINTS, self._space, msgspec.json.encode(checkpoint), self._version)
        written = await write([moved, *rows])
        self._in_doubt = False
        if written:
            self._version += 1
            self._checkpoint = checkpoint
        return written

    def insert(self, key: str, due: Due) -> RowWrite:
        return RowWrite(self._space, key, msgspec.json.encode(due), 0)

    def delete(self, key: str) -> RowWrite:
        return RowWrite(self._space if key.startswith(DUE) else self._parked_space, key, None, 1)

    async def append(self, *rows: RowWrite) -> None:
        """Write rows, all or nothing, whatever the checkpoint is. Conflict if one is not as expected."""
        metadata = Metadata(microseconds(self._world.now()), self._policy, self._policy)
        outcome = await self._append_rows(Append(metadata, rows=rows))
        if isinstance(outcome, Conflict):
            raise outcome

    def _due_rows(self, later: Mapping[str, Due]) -> list[RowWrite]:
        return [self.insert(key, due) for key, due in later.items()]

    async def _stored_checkpoint(self) -> LogRow | None:
        return (await self._write_store.rows(_CHECKPOINTS, [self._space])).get(self._space)


async def checkpoint_after(write_store: WriteStore, policy: str, position: Position) -> RowWrite:
    """Move the checkpoint of a policy, which must not run meanwhile, from the event before `position` to it."""
    space = f"{_POLICY}{policy}"
    row = (await write_store.rows(_CHECKPOINTS, [space]))[space]
    return RowWrite(_CHECKPOINTS, space, msgspec.json.encode(_PolicyCheckpoint(position)), row.version)


async def policy_checkpoints(write_store: WriteStore) -> dict[str, tuple[Position, tuple[Parked, ...]]]:
    """The checkpoint and the parked events of every policy that ever ran on this log, by the name of the policy."""
    checkpoints: dict[str, tuple[Position, tuple[Parked, ...]]] = {}
    for space, row in (await write_store.rows(_CHECKPOINTS)).items():
        name = space.removeprefix(_POLICY)
        parked = tuple([event.parked for event in _parked(await write_store.rows(f"{_PARKED}{name}"))])
        checkpoints[name] = msgspec.json.decode(row.value, type=_PolicyCheckpoint).position, parked
    return checkpoints


def _parked(rows: Mapping[str, LogRow]) -> list[_ParkedReaction]:
    events = [msgspec.json.decode(row.value, type=_ParkedReaction) for row in rows.values()]
    return sorted(events, key=lambda event: event.parked.position)
