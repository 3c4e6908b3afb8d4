"""Handling one command: load, decide, append, and repeat if another process wrote first."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.codec.edge import check_text
from twofold.command_service.batcher import Batcher
from twofold.command_service.command_observer import UNOBSERVED, CommandObserver
from twofold.command_service.fold_reads import FoldedState
from twofold.command_service.folds import Folds, PendingStates
from twofold.command_service.inline_projections import InlineProjections, InlineWrites
from twofold.command_service.pending import PendingAppend, boundary_conditions
from twofold.command_service.turns import Turn
from twofold.domain.actor import Actor, name_of, sender_of
from twofold.domain.decision import Boundary, Context, Decision, Fold
from twofold.domain.envelope import UNKNOWN_ORIGIN, Metadata, Origin
from twofold.domain.events import NewEvent
from twofold.domain.module import Wiring
from twofold.errors import (
    CommandIdReused,
    Conflict,
    FunctionFailed,
    InvalidMessage,
    TwofoldError,
    UnknownMessage,
    failed,
)
from twofold.world import World, microseconds
from twofold.write_store.log_secret import log_secret
from twofold.write_store.port import Append, Appended, Outcome, RowWrite, WriteStore

MAX_COMMAND_ID = 256
"""Characters. Longer ids would not fit into the index of every store."""


class CommandLimits(NamedTuple):
    """How often a command is decided again after a conflict, and the most its events may be: in number and in bytes.

    The names are those of the settings.
    """

    conflict_retries: int = 100
    command_events: int = 10_000
    event_bytes: int = 4_194_304
    command_bytes: int = 16_777_216


class _CommandRequest(msgspec.Struct, eq=False):
    """One command with its decision and boundary, and what is written whatever it decides."""

    decision: Decision
    command: object
    boundary: Boundary
    time: datetime
    metadata: Metadata
    request_hash: bytes
    actor: Actor | None
    rows: tuple[RowWrite, ...]


class _DecidedWrites(msgspec.Struct, eq=False):
    """What a decision writes: its events as they are stored and as they will be read, and the inline rows with them.

    `size` is the bytes of the events.
    """

    stored: tuple[NewEvent, ...]
    events: Sequence[object]
    size: int
    inline: InlineWrites | None = None


class CommandService:
    """Handles commands. Commands that wait at the same time share a commit."""

    def __init__(
        self,
        wiring: Wiring,
        folds: Folds,
        events: EventCodec,
        messages: MessageCodec,
        batcher: Batcher,
        world: World,
        inline: InlineProjections,
        *,
        write_store: WriteStore,
        limits: CommandLimits,
    ) -> None:
        self._wiring = wiring
        self._inline = inline
        self._events = events
        self._messages = messages
        self._batcher = batcher
        self._world = world
        self._limits = limits
        self._folds = folds
        self._write_store = write_store
        self._turns = batcher.turns
        self._contention = batcher.contention
        self._contention.begun = inline.forget
        self._secret = b""
        self.observer: CommandObserver = UNOBSERVED

    @property
    def problem(self) -> str | None:
        """Why no command is handled, in a sentence; None while commands are handled."""
        return self._inline.problem

    async def start(self, *, maintenance: bool = False) -> None:
        """Bring inline projections up to date. Until then commands are refused with Unavailable.

        If `maintenance` is set, nothing is built. WiringError where an inline projection cannot be built.
        """
        self._secret = await log_secret(self._write_store, self._world)
        await self._inline.start(maintenance=maintenance)

    async def handle(
        self,
        command: object,
        command_id: str,
        origin: Origin = UNKNOWN_ORIGIN,
        rows: Sequence[RowWrite] = (),
    ) -> Appended:
        """Decide `command` and write its events, durably, once for each command id, and `rows` in the same commit.

        Event number n (from 0) of the command has the id `<command_id>.<n>`.

        Raises Rejected, or FunctionFailed for what else the decision raises, after it was repeated on the newest
        events. UnreadableEvent where an event that it needs cannot be read. UnknownMessage where no decision takes the
        command. InvalidMessage where an id cannot be a tag or be stored, an event could not be read back, or its events
        are too large or too many. FunctionFailed where an inline projection fails on an event. CommandIdReused.
        Conflict after too many retries, or where a row of `rows` is not as expected. Unavailable where the store cannot
        be reached.
        """
        if self._inline.problem is not None:
            self._inline.refuse()
        kind = type(command)
        decision = self._wiring.decisions.get(kind)
        if decision is None:
            raise UnknownMessage(f"No decision takes {kind.__name__}. Add one to `decisions=[…]`.")
        _check_ids(command_id, origin)
        request_hash = self._messages.request_hash(kind.__name__, command, sender_of(origin.actor))
        now = self._world.now()
        correlation_id = origin.correlation_id or command_id
        time, ids = microseconds(now), (correlation_id, origin.causation_id)
        metadata = Metadata(time, command_id, *ids, name_of(origin.actor), origin.depth, origin.traceparent)
        prepare = self._wiring.prepare.get(kind)
        try:
            if prepare is not None:
                command = await _prepared(prepare, command)
            boundary = decision.boundary(command)
        except Exception:
            # External facts may have changed since. A command that was written gets its receipt when it is sent again.
            _, done = await self._folds.refresh({}, command_id)
            if done is not None:
                return await self._repeat(metadata, request_hash)
            raise
        if self._contention.draining:
            await self._contention.drained()
        turn = self._turns.arrive(boundary.folds)
        request = _CommandRequest(
            decision, command, boundary, now, metadata, request_hash, actor=origin.actor, rows=tuple(rows)
        )
        try:
            return await self._in_turn(request, turn)
        finally:
            if turn.pinned:
                self._folds.unpin(turn.folds)
            if turn.waiting:
                turn.leave()

    async def _in_turn(self, request: _CommandRequest, turn: Turn) -> Appended:
        """Decide when the command is next, on what all before it write, until the result is written."""
        conflicts = 0
        while conflicts <= self._limits.conflict_retries:
            first = self._turns.is_first(turn)
            at_once = first and not self._contention.must_wait(turn.folds)
            states = (self._folds.present(turn.folds) if at_once else None) or await self._states(turn)
            try:
                made = self._decide(request, states.states)
                decided: _DecidedWrites | None = made
                if self._inline.must_read(made.events):
                    decided, states = await self._with_rows(made, states, turn)
            except Exception:
                # Rejected, or an error. Both may depend on states that are old, of different moments, or never written.
                turn.leave()
                final, done = await self._is_final(request, states)
                if done is not None:
                    return await self._repeat(request.metadata, request.request_hash)
                if final:
                    raise
                continue
            if decided is None:
                # Commands that came later do not write to these folds any more until it is decided.
                turn.hold()
                continue
            holder = self._turns.holder(turn, decided.stored, decided.events)
            if holder is not None:
                turn.join()
                await holder.left()
                continue
            pending, answer = self._queue(request, states, decided, turn)
            outcome = await answer
            if isinstance(outcome, Appended):
                if decided.inline is not None and not decided.inline.failed:
                    decided.inline.succeed()
                return outcome
            if isinstance(outcome, CommandIdReused):
                raise outcome
            if pending.undermined:
                # An earlier command of this process failed. That one reads what is newer.
                continue
            conflicts += 1
            self.observer.conflicted(request.decision.command)
            await turn.come()
            await self._folds.renew(pending.seen)
            await self._check_rows(request.rows)
            if conflicts > 1:
                await self._inline.check()
                self._contention.note(turn.folds)
        raise Conflict(
            f"{request.decision.name}: other commands wrote first, {self._limits.conflict_retries + 1} times in a row. "
            "Send the command again."
        )

    async def _states(self, turn: Turn) -> PendingStates:
        """The states to decide on, when no earlier command waits. Nothing is awaited after they are known.

        If they are contended, the log is reserved then.
        """
        while True:
            await turn.come()
            must_wait = self._contention.must_wait(turn.folds)
            states = None if must_wait else self._folds.present(turn.folds)
            if states is not None:
                return states
            turn.join()
            if not turn.pinned:
                turn.pinned = True
                self._folds.pin(turn.folds)
            # Also before it waits: while the log is reserved, only what is new should have to be read.
            states = await self._folds.load(turn.folds, turn.block)
            turn.blocked = False
            if self._turns.is_first(turn):
                if not self._contention.must_wait(turn.folds):
                    return states
                await self._contention.wait()

    def _decide(self, request: _CommandRequest, states: Mapping[Fold, Any]) -> _DecidedWrites:
        decision, metadata = request.decision, request.metadata
        context: Context | None = None
        if decision.takes_context:
            context = Context(metadata.command_id, request.time, request.actor, secret=self._secret)
        began = self._world.monotonic()
        try:
            decided = decision.decide(request.command, request.boundary, states, context)
        finally:
            self.observer.decided(decision.name, self._world.monotonic() - began)
        return self._written(decided, metadata.command_id)

    async def _with_rows(
        self, decided: _DecidedWrites, states: PendingStates, turn: Turn
    ) -> tuple[_DecidedWrites | None, PendingStates]:
        """The same with the rows of inline projections, and what is seen now; None if the states changed meanwhile."""
        turn.join()
        rows = await self._inline.rows(decided.events)
        # A command that shares no fold may have written events of these folds meanwhile.
        present = self._folds.present(tuple(states.states))
        if present is None or any(present.states[fold] is not state for fold, state in states.states.items()):
            return None, states
        decided.inline = rows
        # The states may be the same again after events that came meanwhile: the append rests on these, too.
        return decided, present

    async def _is_final(self, request: _CommandRequest, states: PendingStates) -> tuple[bool, Appended | None]:
        """Whether a decision that failed on these states fails at one moment of the log, and what was written before.

        If not, the newest states are in the cache. Raises what the decision raises on the newest states.
        """
        if any(boundary.rests for boundary in states.seen.values()):
            return await self._folds.confirm(states.seen, request.metadata.command_id)
        folded = {fold: FoldedState(state, states.seen[fold].after) for fold, state in states.states.items()}
        newest, done = await self._folds.refresh(folded, request.metadata.command_id)
        if done is not None:
            return False, done
        if all(newest[fold].state is state for fold, state in states.states.items()):
            # A fold that saw no new event keeps its object.
            return True, None
        decided = self._decide(request, {fold: folded.state for fold, folded in newest.items()})
        await self._inline.rows(decided.events)
        return False, None

    def _queue(
        self, request: _CommandRequest, states: PendingStates, decided: _DecidedWrites, turn: Turn
    ) -> "tuple[PendingAppend, asyncio.Future[Outcome]]":
        """Queue what was decided. The next command is decided on it."""
        inline = decided.inline
        append = Append(
            request.metadata,
            decided.stored,
            boundary_conditions(states.seen),
            request.metadata.command_id,
            request.request_hash,
            request.rows if inline is None else inline.writes + request.rows,
            self._inline.guards,
            rests_on=(),
        )
        self._batcher.refuse(append, decided.size)
        pending = self._folds.begin(append, decided.events, states)
        if inline is not None:
            self._inline.begin(inline)

        def failed(again: bool) -> None:
            if inline is not None:
                inline.fail()
            if again:
                turn.join()

        answer = self._batcher.put(pending, decided.size, failed)
        if turn.waiting:
            turn.leave()
        return pending, answer

    async def _check_rows(self, rows: Sequence[RowWrite]) -> None:
        """Conflict where a row is not as expected: then no other decision could be appended with these rows either."""
        for row in rows:
            present = (await self._write_store.rows(row.space, [row.key])).get(row.key)
            if (0 if present is None else present.version) != row.expected:
                raise Conflict(f"The row '{row.key}' of '{row.space}', which is written with the command, was changed.")

    def _written(self, decided: Sequence[object], command_id: str) -> _DecidedWrites:
        limits = self._limits
        if len(decided) > limits.command_events:
            raise _too_much(f"This command makes {len(decided)} events", "command_events", limits.command_events)
        stored: list[NewEvent] = []
        events: list[object] = []
        size = 0
        for event in decided:
            new, read = self._events.written(event, command_id, len(stored))
            bytes_of_event = len(new.payload)
            if bytes_of_event > limits.event_bytes:
                what = f"A '{new.type}' event of this command has {bytes_of_event} bytes"
                raise _too_much(what, "event_bytes", limits.event_bytes)
            size += bytes_of_event
            if size > limits.command_bytes:
                raise _too_much("The events of this command have more bytes", "command_bytes", limits.command_bytes)
            stored.append(new)
            events.append(read)
        return _DecidedWrites(tuple(stored), events, size)

    async def _repeat(self, metadata: Metadata, request_hash: bytes) -> Appended:
        """The first outcome of a command id that was used before. CommandIdReused for another request."""
        return _appended(
            await self._batcher.append(Append(metadata, command_id=metadata.command_id, request_hash=request_hash))
        )


def _too_much(what: str, setting: str, limit: int) -> InvalidMessage:
    return InvalidMessage(f"{what}, and the setting `{setting}` allows {limit}. Do less in one command, or allow more.")


async def _prepared(prepare: Callable[[Any], Awaitable[Any]], command: object) -> object:
    """The command after its `prepare` step. FunctionFailed if that fails, or returns something else."""
    name = f"The prepare step {getattr(prepare, '__qualname__', prepare)}"
    try:
        prepared = await prepare(command)
    except (TwofoldError, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise failed(name, error) from error
    if not isinstance(prepared, type(command)):
        what = f"returned {type(prepared).__name__}, but it returns a {type(command).__name__}"
        raise FunctionFailed(name, what, f"{prepared!r:.100}")
    return prepared


def _check_ids(command_id: str, origin: Origin) -> None:
    """InvalidMessage for ids that a store cannot keep: they would fail all commands of the same commit."""
    if len(command_id) > MAX_COMMAND_ID:
        raise InvalidMessage(f"A command id may have at most {MAX_COMMAND_ID} characters.", field="command_id")
    check_text(command_id, "command_id")
    if origin.actor is not None:
        check_text(origin.actor.name, "actor")
    if origin.correlation_id is not None:
        check_text(origin.correlation_id, "correlation_id")
    if origin.causation_id is not None:
        check_text(origin.causation_id, "causation_id")


def _appended(outcome: Outcome) -> Appended:
    if isinstance(outcome, Appended):
        return outcome
    raise outcome
