"""What a policy keeps in the write store: its checkpoint, its due commands, its parked keys, and what is answered.

Each command of a policy is written in one commit with the row that says that it is sent. So it has one effect, however
late it is repeated: the command id need not be remembered for that.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Conflict, Rejected
from twofold.synchronization.causation import TooDeep, described
from twofold.synchronization.policy_rows import (
    CHECKPOINTS,
    DUE,
    OWNERS,
    REJECTED,
    Answered,
    Due,
    ParkedReaction,
    PolicyCheckpoint,
    PolicySpaces,
    RejectedCommand,
    parked_rows,
    rejected_in,
)
from twofold.world import World, microseconds
from twofold.write_store.log_secret import log_secret
from twofold.write_store.port import Append, LogRow, Outcome, RowWrite, WriteStore

SendWith = Callable[[Sequence[RowWrite]], Awaitable[Rejected | None]]
"""Sends a command that is written in one commit with these rows. If they are not written, the rejection."""


class PolicyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved together: the checkpoint, events beyond it that are done, keys, due commands, rejected commands."""

    position: Position
    done: Set[Position] = frozenset()
    parked: Mapping[str, ParkedReaction | None] = {}
    past: Set[Position] = frozenset()
    """Events behind which their parked key has gone on."""
    due: Mapping[str, Due] = {}
    sent: Sequence[str] = ()
    """Keys of due commands that need not be sent any more."""
    rejected: Sequence[RejectedCommand] | None = None


class PolicyStorage:
    """Reads and writes the rows of one policy. `append` writes them in one commit with the commands that wait.

    `open` takes the policy over: it writes the row of the owner, and every later write is made only while that row is
    as it was. So of two processes that run the same policy only the last one goes on: the other gets Conflict.

    A command that becomes due is written without that condition. Its commit deletes its own row: it is sent once,
    whichever process sends it.
    """

    def __init__(
        self, policy: str, write_store: WriteStore, append: Callable[[Append], Awaitable[Outcome]], world: World
    ) -> None:
        self.log_id = write_store.identity.log
        self._policy = policy
        self._write_store = write_store
        self._append_rows = append
        self._world = world
        self._spaces = PolicySpaces(policy)
        self._owner = 0
        self._version = 0
        self._rejected_version = 0
        self._checkpoint = PolicyCheckpoint(0)
        self._answered: dict[Position, tuple[Answered, int]] = {}
        self._kept: set[Position] = set()
        """Events of parked keys that are answered in part: their rows stay until the key has gone on behind them."""
        self._parked: dict[str, ParkedReaction] = {}
        self._in_doubt = False

    @property
    def position(self) -> Position:
        """The position up to which the policy is done."""
        return self._checkpoint.position

    async def open(self, *, from_start: bool) -> Position:
        """Take the policy over. The checkpoint; a new policy gets one at position 0 or at the head.

        Call it before `due`, `parked` and `rejected`: no other process changes the rows after it.
        """
        row = (await self._write_store.rows(OWNERS, [self._spaces.policy])).get(self._spaces.policy)
        self._owner = 0 if row is None else row.version
        await self.append(RowWrite(OWNERS, self._spaces.policy, self._place, self._owner))
        self._owner += 1
        self._in_doubt = False
        answered = await self._write_store.rows(self._spaces.answered)
        self._answered = {
            int(key): (msgspec.json.decode(row.value, type=Answered), row.version) for key, row in answered.items()
        }
        parked = parked_rows(await self._write_store.rows(self._spaces.parked))
        self._parked = {reaction.parked.key: reaction for reaction in parked}
        row = await self._stored_checkpoint()
        if row is None:
            self._version = 0
            await self.save(PolicyChanges(position=0 if from_start else (await self._write_store.read(NO_EVENTS)).head))
        else:
            self._version = row.version
            self._checkpoint = msgspec.json.decode(row.value, type=PolicyCheckpoint)
        waits = [(each.parked.position, max(each.parked.position, each.parked.upto)) for each in parked]
        # The last process may have come further with a key than it had saved.
        before = [at for at in self._answered if at <= self.position]
        self._kept = {at for at in before if any(first <= at <= last for first, last in waits)}
        return self.position

    async def due(self) -> dict[str, Due]:
        """The due commands by key."""
        rows = (await self._write_store.rows(self._spaces.policy)).items()
        return {key: msgspec.json.decode(row.value, type=Due) for key, row in rows if key.startswith(DUE)}

    def parked(self) -> dict[str, ParkedReaction]:
        """What was parked when it was opened, by key, in the order of the log."""
        return dict(self._parked)

    async def rejected(self) -> tuple[RejectedCommand, ...]:
        """The commands that were rejected, the oldest first."""
        row = (await self._write_store.rows(REJECTED, [self._spaces.policy])).get(self._spaces.policy)
        self._rejected_version = 0 if row is None else row.version
        return rejected_in(row)

    async def secret(self) -> bytes:
        """The secret of the log."""
        return await log_secret(self._write_store, self._world)

    async def is_due(self, key: str) -> bool:
        """Whether a command is still due: neither sent nor skipped, by any process."""
        return key in await self._write_store.rows(self._spaces.policy, [key])

    def answered(self, position: Position, key: str) -> Answered:
        """How far the event at a position, which is of this key, is answered."""
        known = self._answered.get(position)
        if known is not None:
            return known[0]
        if position == self.position + 1:
            return Answered(self._checkpoint.sent)
        parked = self._parked.get(key)
        return Answered(parked.sent) if parked is not None and parked.parked.position == position else Answered()

    async def events(self, query: EventQuery, after: Position, limit: int) -> list[RecordedEvent]:
        """Events after a position."""
        return (await self._write_store.read(query, after, limit)).events

    async def described(self, error: TooDeep) -> str:
        """The error in sentences that name the events which cause one another."""
        return await described(error, self._write_store)

    def keep(self, *positions: Position) -> None:
        """These events wait behind a parked one: their rows stay until `PolicyChanges.past` has them."""
        self._kept.update(position for position in positions if position in self._answered)

    async def send(
        self, position: Position, answered: Answered, later: Mapping[str, Due], send: SendWith, *, parked: bool
    ) -> Rejected | None:
        """Send a command, after which the event at a position is `answered` so far. What is due `later` is stored too.

        `parked`: its key is parked there. The result is that of `send`.
        """
        version = self._known(position)[1]
        row = RowWrite(self._spaces.answered, str(position), msgspec.json.encode(answered), version)
        rejection = await send([self._fence(), row, *self._due_rows(later)])
        if rejection is None:
            self._answered[position] = answered, version + 1
            if parked:
                self._kept.add(position)
        return rejection

    async def save(self, changes: PolicyChanges, *rows: RowWrite) -> None:
        """Write changes and rows, all or nothing. Conflict if another process has taken the policy over."""
        await self.check()
        same = changes.position == self.position
        checkpoint = self._checkpoint if same else PolicyCheckpoint(changes.position)
        over = self.over(changes)
        self._in_doubt = True
        try:
            await self.append(*self._writes(changes, checkpoint, over), *rows)
        except Conflict:
            self._in_doubt = False
            raise
        self._in_doubt = False
        self._version += 1
        self._checkpoint = checkpoint
        for position in changes.done:
            known, version = self._known(position)
            self._answered[position] = msgspec.structs.replace(known, done=True), version + 1
        for position in over:
            del self._answered[position]
        self._kept &= self._answered.keys() - changes.past
        self._parked = _changed(self._parked, changes.parked)
        if changes.rejected is not None:
            self._rejected_version += 1

    async def check(self, position: Position | None = None) -> None:
        """Conflict if another process has taken the policy over, or a write that failed was made all the same.

        With a position, the write is that of a command that answers the event there.
        """
        moved = False
        if position is not None:
            keys = [str(position)]
            row = (await self._write_store.rows(self._spaces.answered, keys)).get(str(position))
            moved = (0 if row is None else row.version) != self._known(position)[1]
        elif self._in_doubt:
            row = await self._stored_checkpoint()
            moved = (0 if row is None else row.version) != self._version
        else:
            return
        if moved:
            raise self._taken_over()
        await self.check_owner()
        self._in_doubt = self._in_doubt and position is not None

    async def check_owner(self) -> None:
        """Conflict if another process has taken the policy over."""
        owner = (await self._write_store.rows(OWNERS, [self._spaces.policy])).get(self._spaces.policy)
        if owner is None or owner.version != self._owner:
            raise self._taken_over()

    def delete_due(self, key: str) -> RowWrite:
        """Delete a due command: it is sent, or not to be sent any more."""
        return RowWrite(self._spaces.policy, key, None, 1)

    async def append(self, *rows: RowWrite) -> None:
        """Write rows, all or nothing, also if another process runs the policy. Conflict if one is not as expected."""
        metadata = Metadata(microseconds(self._world.now()), self._policy, self._policy)
        outcome = await self._append_rows(Append(metadata, rows=rows))
        if isinstance(outcome, Conflict):
            raise outcome

    def over(self, changes: PolicyChanges) -> list[Position]:
        """The events of which nothing need be known once the changes are saved. Their rows are deleted with them."""
        parked = [each.parked for each in _changed(self._parked, changes.parked).values()]
        first = min((each.position for each in parked), default=0)
        last = max((max(each.position, each.upto) for each in parked), default=0)
        kept = {at for at in self._kept - changes.past if first <= at <= last}
        return [at for at in self._answered if at <= changes.position and at not in kept]

    def _writes(self, changes: PolicyChanges, checkpoint: PolicyCheckpoint, over: Sequence[Position]) -> list[RowWrite]:
        value = msgspec.json.encode(checkpoint)
        rows = [self._fence(), RowWrite(CHECKPOINTS, self._spaces.policy, value, self._version)]
        for key, reaction in changes.parked.items():
            rows += self._parked_row(key, reaction)
        for position in sorted(changes.done):
            known, version = self._known(position)
            value = msgspec.json.encode(msgspec.structs.replace(known, done=True))
            rows.append(RowWrite(self._spaces.answered, str(position), value, version))
        rows += [RowWrite(self._spaces.answered, str(at), None, self._known(at)[1]) for at in over]
        rows += self._due_rows(changes.due)
        rows += [self.delete_due(key) for key in changes.sent]
        if changes.rejected is not None:
            value = msgspec.json.encode(changes.rejected)
            rows.append(RowWrite(REJECTED, self._spaces.policy, value, self._rejected_version))
        return rows

    def _taken_over(self) -> Conflict:
        return Conflict(f"The rows of the policy '{self._policy}' have changed. They are read again.")

    def _parked_row(self, key: str, reaction: ParkedReaction | None) -> list[RowWrite]:
        known = key in self._parked
        if reaction is None:
            return [RowWrite(self._spaces.parked, key, None, 1)] if known else []
        return [RowWrite(self._spaces.parked, key, msgspec.json.encode(reaction), int(known), version=1)]

    def _fence(self) -> RowWrite:
        """The row of the owner as it is: whatever is written with it is written only by the owner."""
        return RowWrite(OWNERS, self._spaces.policy, self._place, self._owner, version=self._owner)

    def _due_rows(self, later: Mapping[str, Due]) -> list[RowWrite]:
        return [RowWrite(self._spaces.policy, key, msgspec.json.encode(due), 0) for key, due in later.items()]

    def _known(self, position: Position) -> tuple[Answered, int]:
        """What the row of an event says, and its version."""
        return self._answered.get(position, (Answered(), 0))

    @property
    def _place(self) -> bytes:
        return msgspec.json.encode(self._world.place)

    async def _stored_checkpoint(self) -> LogRow | None:
        return (await self._write_store.rows(CHECKPOINTS, [self._spaces.policy])).get(self._spaces.policy)


def _changed(
    parked: Mapping[str, ParkedReaction], changes: Mapping[str, ParkedReaction | None]
) -> dict[str, ParkedReaction]:
    merged = {**parked, **changes}
    return {key: reaction for key, reaction in merged.items() if reaction is not None}
