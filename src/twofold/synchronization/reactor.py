"""The follower that runs a policy: it reacts to the events in order, and moves the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from twofold.codec import EventCodec
from twofold.domain.events import Position
from twofold.domain.policy import BoundPolicy
from twofold.errors import InvalidMessage
from twofold.read_store.port import Parked
from twofold.synchronization.causation import TooDeep
from twofold.synchronization.due_commands import DueCommands
from twofold.synchronization.follower import FollowerPaused, Skips, error_text
from twofold.synchronization.policy_storage import DUE, Due, PolicyStorage, SendWith
from twofold.synchronization.reaction import CommandSender, Reaction
from twofold.synchronization.reaction_retries import ReactionRetries
from twofold.world import World, microseconds
from twofold.write_store.port import RowWrite, Slice


class Reactor:
    """Runs a policy once for each event.

    The checkpoint and the commands due later are rows of the write store, written in one commit with the commands that
    are sent: read models may be deleted and rebuilt, but what a policy has done must not happen again. A page that is
    repeated after a crash sends the commands that were not sent, and effects outside with the same key.
    """

    def __init__(
        self,
        policy: BoundPolicy,
        storage: PolicyStorage,
        events: EventCodec,
        sender: CommandSender,
        world: World,
        *,
        retry_parked: bool = True,
    ) -> None:
        self.name = policy.name
        self._from_start = policy.from_start
        self._storage = storage
        self._world = world
        self._retry_parked = retry_parked
        self._reaction = Reaction(policy, storage.log_id, events, sender)
        self._due = DueCommands(policy.name, storage, sender, world)
        self._retries = ReactionRetries(self._reaction, storage, self._due, world)
        self.query = self._reaction.query

    async def open(self) -> Position:
        position = await self._storage.open(from_start=self._from_start)
        self._reaction.secret = await self._storage.secret()
        self._due.open(await self._storage.due())
        self._retries.open(await self._storage.parked(), retry=self._retry_parked)
        return position

    async def apply(self, page: Slice, before: Position) -> None:
        later: dict[str, Due] = {}
        for recorded in page.events:
            position = recorded.position

            async def advance(sent: int, due: Mapping[str, Due], send: SendWith, position: int = position) -> bool:
                written = await self._storage.send(position, sent, due, send)
                if written:
                    self._due.add(due)
                return written

            # After a failure the page comes again, and a part of it may be done.
            if position > self._storage.position:
                try:
                    await self._reaction.react_to(recorded, self._storage.sent(position), later, advance)
                except TooDeep as error:
                    await self._pause(error, later)
        if page.upto > self._storage.position:
            await self._storage.save(page.upto, *(self._storage.insert(key, due) for key, due in later.items()))
            self._due.add(later)

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        # A policy has no state between events, so no other event has to wait for this one.
        (recorded,) = page.events
        parked = Parked(
            f"parked:{recorded.position}", recorded.position, error_text(error), microseconds(self._world.now())
        )
        await self._storage.park(parked, page.upto)
        self._retries.parked[parked.key] = parked

    async def retry_pending(self, at: Position) -> float | None:
        return await self._retries.retry_next()

    async def retry(self, key: str, at: Position) -> str:
        parked = self._parked.get(key)
        if parked is None:
            raise InvalidMessage(f"The policy '{self.name}' has nothing parked as '{key}'.", field="key")
        if key.startswith(DUE):
            await self._due.retry(key)
            return "It is sent again now."
        return await self._retries.retry(parked)

    async def repair(self, key: str, at: Position) -> str:
        raise InvalidMessage(f"'{self.name}' is a policy. It has no rows to repair.", field="name")

    async def skip(self, key: str, record: Sequence[RowWrite]) -> None:
        """Skip what is parked as `key`, and write `record`: both, or nothing and Conflict."""
        await self._storage.save(None, self._storage.delete(key), *record)
        if key.startswith(DUE):
            self._due.skip(key)
        else:
            self._retries.parked.pop(key, None)

    def add_skips(self, skips: Skips) -> None:
        """Do nothing: `skip` has deleted what is parked."""

    def parked_at(self, key: str) -> Position | None:
        """The position of the event that a `skip` of this key skips; 0 for a due command, None if nothing is parked."""
        parked = self._parked.get(key)
        return None if parked is None else parked.position

    async def parked(self) -> tuple[Parked, ...]:
        return tuple(self._parked.values())

    async def close(self) -> None:
        await self._due.close()

    async def _pause(self, error: TooDeep, later: Mapping[str, Due]) -> NoReturn:
        """Pause before the event that the answer of which is too deep, and save what was done before it."""
        reason = await self._storage.described(error)
        rows = [self._storage.insert(key, due) for key, due in later.items()]
        await self._storage.pause(error.recorded.position, reason, *rows)
        # A storm may go on by due commands. They stay in the write store until the policy is resumed.
        await self._due.close()
        raise FollowerPaused(reason) from error

    @property
    def _parked(self) -> dict[str, Parked]:
        return self._retries.parked | self._due.parked
