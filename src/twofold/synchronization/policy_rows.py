"""The rows of a policy in the write store: what they hold, and how they are named."""

from collections.abc import Mapping

import msgspec

from twofold.domain.events import Position
from twofold.read_store.port import Parked
from twofold.write_store.port import LogRow, RowWrite, WriteStore

DUE = "due:"
"""Keys of due commands begin with this, and end with the id of the command."""
MAX_REJECTED = 50
"""So many commands of a policy that a rule rejected are kept, the last ones."""
_LONGEST_MESSAGE = 300

CHECKPOINTS = "checkpoints"
"""One space for all policies, so that the checkpoints can be read without the names of the policies."""
OWNERS = "policy-owners"
REJECTED = "rejected"
"""One space for all policies each: a row with the name of the policy."""
_POLICY = "policy:"
_PARKED = "parked:"
"""A separate space, so that the parked keys can be read without all due commands."""
_ANSWERED = "answered:"


class Due(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command to send at `at` (microseconds since 1970, UTC). `key` and `position` are those of the event it answers.

    Without a `key` it waits for no other command. `traceparent` is that of the event.
    """

    at: int
    command: str
    body: msgspec.Raw
    correlation_id: str
    causation_id: str
    depth: int = 0
    key: str = ""
    position: Position = 0
    traceparent: str | None = None


class RejectedCommand(msgspec.Struct, frozen=True):
    """A command of a policy that a rule rejected. `position` is that of the event it answers, `at` is in microseconds
    since 1970 in UTC."""

    command_id: str
    command: str
    position: Position
    code: str
    message: str
    at: int

    @classmethod
    def of(
        cls, command_id: str, command: str, position: Position, code: str, message: str, at: int
    ) -> "RejectedCommand":
        """The same with a message of limited length, as text that every store can hold."""
        short = message[:_LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode()
        return cls(command_id, command, position, code, short, at)


class PolicyCheckpoint(msgspec.Struct, frozen=True):
    """The position up to which a policy is done.

    `sent` was written by earlier versions: how many commands of the next event are sent.
    """

    position: Position
    sent: int = 0


class Answered(msgspec.Struct, frozen=True):
    """How far an event beyond the checkpoint, or a parked one, is answered: so many of its commands are sent.

    `done`: nothing is left to do for it. `rejected` are those of its commands that were rejected so far.
    """

    sent: int = 0
    done: bool = False
    rejected: tuple[RejectedCommand, ...] = ()


class ParkedReaction(msgspec.Struct, frozen=True):
    """A parked key as its row holds it.

    `sent` was written by earlier versions: so many commands of its event are sent.
    """

    parked: Parked
    sent: int = 0


class PolicyProgress(msgspec.Struct, frozen=True):
    """How far a policy has come, what it has parked, and which of its commands were rejected, by what is stored."""

    position: Position
    parked: tuple[Parked, ...] = ()
    rejected: tuple[RejectedCommand, ...] = ()


class PolicySpaces:
    """The names of the spaces of one policy."""

    def __init__(self, policy: str) -> None:
        self.policy = f"{_POLICY}{policy}"
        self.parked = f"{_PARKED}{policy}"
        self.answered = f"{_ANSWERED}{policy}"


def parked_rows(rows: Mapping[str, LogRow]) -> list[ParkedReaction]:
    """The parked keys in rows, in the order of the log."""
    keys = [msgspec.json.decode(row.value, type=ParkedReaction) for row in rows.values()]
    return sorted(keys, key=lambda key: key.parked.position)


async def leave_out(write_store: WriteStore, policy: str, position: Position) -> RowWrite:
    """The row that says that an event beyond the checkpoint is done, for the caller to write.

    The policy must not run before it is written.
    """
    space = PolicySpaces(policy).answered
    row = (await write_store.rows(space, [str(position)])).get(str(position))
    known = Answered() if row is None else msgspec.json.decode(row.value, type=Answered)
    value = msgspec.json.encode(msgspec.structs.replace(known, done=True))
    return RowWrite(space, str(position), value, 0 if row is None else row.version)


async def policy_progress(write_store: WriteStore) -> dict[str, PolicyProgress]:
    """How far every policy has come that ever ran on this log, by the name of the policy."""
    progress: dict[str, PolicyProgress] = {}
    rejected = await write_store.rows(REJECTED)
    for space, row in (await write_store.rows(CHECKPOINTS)).items():
        name = space.removeprefix(_POLICY)
        parked = tuple([key.parked for key in parked_rows(await write_store.rows(PolicySpaces(name).parked))])
        position = msgspec.json.decode(row.value, type=PolicyCheckpoint).position
        progress[name] = PolicyProgress(position, parked, rejected_in(rejected.get(space)))
    return progress


def rejected_in(row: LogRow | None) -> tuple[RejectedCommand, ...]:
    """The rejected commands that a row holds, the oldest first."""
    return () if row is None else msgspec.json.decode(row.value, type=tuple[RejectedCommand, ...])
