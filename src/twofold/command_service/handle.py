"""In charge of one command: load, decide, append, and again from the start if someone else wrote first."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from twofold.codec import EventCodec, MessageCodec
from twofold.command_service.batcher import Batcher
from twofold.command_service.folds import Folded, Folds, conditions
from twofold.domain.decision import Context, Fold
from twofold.domain.events import Metadata, Position
from twofold.domain.module import Wiring
from twofold.errors import CommandIdReused, Conflict, Refused, Rejected, UnknownMessage
from twofold.world import World, microseconds
from twofold.write_store.port import Append, Appended, Outcome


class Written(NamedTuple):
    """What a command came to: the ids of its events, and the position that holds them (or the head, if none)."""

    events: list[str]
    position: Position
    repeated: bool


class CommandService:
    """Handles commands one consistency boundary at a time; commands that wait together share a commit."""

    def __init__(
        self,
        wiring: Wiring,
        folds: Folds,
        events: EventCodec,
        messages: MessageCodec,
        batcher: Batcher,
        world: World,
        *,
        retries: int,
    ) -> None:
        self._wiring = wiring
        self._events = events
        self._messages = messages
        self._batcher = batcher
        self._world = world
        self._retries = retries
        self._folds = folds

    async def handle(
        self,
        command: object,
        command_id: str,
        *,
        actor: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Written:
        """Decide `command` and write what follows from it, durably, once for each command id.

        Rejected (or Refused) as the decision says, and only after a look at the newest events. UnknownMessage where
        no decision takes it, InvalidMessage where an id in it cannot be a tag, CommandIdReused, Conflict after too
        many retries, Unavailable.
        """
        decision = self._wiring.decisions.get(type(command))
        if decision is None:
            raise UnknownMessage(f"No decision takes {type(command).__name__}. Add one to `decisions=[…]`.")
        request_hash = self._messages.request_hash(decision.command.__name__, command)
        prepare = self._wiring.prepare.get(type(command))
        if prepare is not None:
            command = await prepare(command)
        now = self._world.now()
        metadata = Metadata(microseconds(now), command_id, correlation_id or command_id, causation_id, actor)
        boundary = decision.boundary(command)
        folded: Mapping[Fold, Folded] = await self._folds.load(boundary.folds)
        for attempt in range(self._retries + 1):
            if attempt:
                folded = await self._newer(folded)
            context = Context(command_id, now, actor)
            try:
                decided = decision.decide(command, boundary, _states(folded), context)
            except (Rejected, Refused):
                newest, done = await self._folds.refresh(folded, command_id)
                if done is not None:
                    return await self._repeat(command_id, request_hash, metadata)
                if _came_further(folded, newest):
                    decided = decision.decide(command, boundary, _states(newest), Context(command_id, now, actor))
                    folded = newest
                else:
                    raise
            new = tuple(self._events.encode(event, command_id, i) for i, event in enumerate(decided))
            append = Append(metadata, new, conditions(folded), command_id, request_hash)
            outcome = await self._batcher.append(append, decided)
            if isinstance(outcome, Appended):
                return _written(command_id, outcome)
            if isinstance(outcome, CommandIdReused):
                raise outcome
        raise Conflict(f"{decision.name}: others wrote first, {self._retries + 1} times in a row. Send it again.")

    async def _repeat(self, command_id: str, request_hash: bytes, metadata: Metadata) -> Written:
        """The first outcome of a command id that is known to be taken. CommandIdReused for another request."""
        outcome = await self._batcher.append(Append(metadata, (), (), command_id, request_hash), ())
        return _written(command_id, _appended(outcome))

    async def _newer(self, folded: Mapping[Fold, Folded]) -> Mapping[Fold, Folded]:
        """Folds newer than those a decision failed on: from the cache if all moved on since, else from the log."""
        cached = await self._folds.load(tuple(folded))
        # One that stands still may be the one that was too old: it would fail for ever while others move on.
        if all(cached[fold].upto > upto for fold, (_, upto) in folded.items()):
            return cached
        refreshed, _ = await self._folds.refresh(folded)
        return refreshed


def _states(folded: Mapping[Fold, Folded]) -> dict[Fold, Any]:
    return {fold: state for fold, (state, _) in folded.items()}


def _came_further(before: Mapping[Fold, Folded], after: Mapping[Fold, Folded]) -> bool:
    """Whether any state changed identity: a fold that saw nothing new keeps its very object."""
    return any(after[fold].state is not folded.state for fold, folded in before.items())


def _written(command_id: str, outcome: Appended) -> Written:
    return Written([f"{command_id}.{i}" for i in range(outcome.count)], outcome.position, outcome.repeated)


def _appended(outcome: Outcome) -> Appended:
    if isinstance(outcome, Appended):
        return outcome
    raise outcome
