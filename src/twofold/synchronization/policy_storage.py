"""What a policy keeps in the write store: its checkpoint, its due commands and its parked events."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Conflict
from twofold.read_store.port import Parked
from twofold.synchronization.causation import TooDeep, described
from twofold.synchronization.cluster_state import ACTS, OperatorAction, Pause, pause_row
from twofold.world import World, microseconds
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


class PolicyStorage:
    """Reads and writes the rows of one policy. `append` writes them in one commit with the commands that wait."""

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
        self._position: Position = 0

    async def open(self, *, from_start: bool) -> Position:
        """The checkpoint; a new policy gets one at position 0 or at the head. Call it before `due` and `parked`.

        If another process changes the rows after this, it moves the checkpoint too, and `save` fails with Conflict.
        """
        checkpoint = (await self._write_store.rows(_CHECKPOINTS)).get(self._space)
        if checkpoint is None:
            self._version = 0
            await self.save(0 if from_start else (await self._write_store.read(NO_EVENTS)).head)
        else:
            self._version = checkpoint.version
            self._position = msgspec.json.decode(checkpoint.value, type=int)
        return self._position

    async def due(self) -> dict[str, Due]:
        """The due commands by key."""
        rows = (await self._write_store.rows(self._space)).items()
        return {key: msgspec.json.decode(row.value, type=Due) for key, row in rows if key.startswith(DUE)}

    async def parked(self) -> dict[str, Parked]:
        """The parked events by key, in the order of the log."""
        return {parked.key: parked for parked in _parked(await self._write_store.rows(self._parked_space))}

    async def event(self, query: EventQuery, position: Position) -> RecordedEvent | None:
        """The event at a position; None if the query does not select it."""
        events = (await self._write_store.read(query, position - 1, 1)).events
        return next((event for event in events if event.position == position), None)

    async def described(self, error: TooDeep) -> str:
        """The error in sentences that name the events which cause one another."""
        return await described(error, self._write_store)

    async def save(self, position: Position | None, *rows: RowWrite) -> None:
        """Write rows and the checkpoint, all or nothing. Without a position the checkpoint stays where it is."""
        position = self._position if position is None else position
        await self.append(RowWrite(_CHECKPOINTS, self._space, msgspec.json.encode(position), self._version), *rows)
        self._version += 1
        self._position = position

    async def pause(self, position: Position, reason: str, *rows: RowWrite) -> None:
        """Pause the policy before the event at `position`, put that on record, and write rows: all or nothing."""
        now = microseconds(self._world.now())
        outcome = f"It is paused: {reason}"
        action = OperatorAction(
            what="pause", name=self._policy, key="", actor=None, at=now, done=True, outcome=outcome, position=position
        )
        record = RowWrite(ACTS, f"{now}-{self._world.new_id()}", msgspec.json.encode(action), 0)
        pause = pause_row("", self._policy, Pause(reason, None, now, position), 0)
        await self.save(position - 1, *rows, pause, record)

    def insert(self, key: str, value: Due | Parked) -> RowWrite:
        return RowWrite(self._space_of(key), key, msgspec.json.encode(value), 0)

    def delete(self, key: str) -> RowWrite:
        return RowWrite(self._space_of(key), key, None, 1)

    def _space_of(self, key: str) -> str:
        return self._space if key.startswith(DUE) else self._parked_space

    async def append(self, *rows: RowWrite) -> None:
        """Write rows, all or nothing, whatever the checkpoint is. Conflict if one is not as expected."""
        metadata = Metadata(microseconds(self._world.now()), self._policy, self._policy)
        outcome = await self._append_rows(Append(metadata, rows=rows))
        if isinstance(outcome, Conflict):
            raise outcome


async def checkpoint_after(write_store: WriteStore, policy: str, position: Position) -> RowWrite:
    """Move the checkpoint of a policy, which must not run meanwhile, from the event before `position` to it."""
    space = f"{_POLICY}{policy}"
    row = (await write_store.rows(_CHECKPOINTS, [space]))[space]
    return RowWrite(_CHECKPOINTS, space, msgspec.json.encode(position), row.version)


async def policy_checkpoints(write_store: WriteStore) -> dict[str, tuple[Position, tuple[Parked, ...]]]:
    """The checkpoint and the parked events of every policy that ever ran on this log, by the name of the policy."""
    checkpoints: dict[str, tuple[Position, tuple[Parked, ...]]] = {}
    for space, row in (await write_store.rows(_CHECKPOINTS)).items():
        name = space.removeprefix(_POLICY)
        parked = tuple(_parked(await write_store.rows(f"{_PARKED}{name}")))
        checkpoints[name] = msgspec.json.decode(row.value, type=int), parked
    return checkpoints


def _parked(rows: Mapping[str, LogRow]) -> list[Parked]:
    parked = [msgspec.json.decode(row.value, type=Parked) for row in rows.values()]
    return sorted(parked, key=lambda event: event.position)
