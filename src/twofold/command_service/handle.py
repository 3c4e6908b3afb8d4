"""Handling one command: load, decide, append, and repeat if another process wrote first."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.codec.edge import check_text
from twofold.command_service.batcher import Batcher
from twofold.command_service.folds import FoldedState, Folds, conditions
from twofold.command_service.inline_projections import InlineProjections, InlineWrites
from twofold.domain.decision import Context, Fold
from twofold.domain.envelope import Metadata
from twofold.domain.events import NewEvent, Position
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


class Written(NamedTuple):
    """The outcome of a command: the ids of its events, and the position of the last one (the head if none).

    `digest` is that of the chain at the position.
    """

    events: list[str]
    position: Position
    repeated: bool
    digest: str


_Decide = Callable[[Mapping[Fold, FoldedState]], Sequence[object]]
"""A decision about one command, as a function of the states alone."""


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
        self._secret = b""

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
        *,
        actor: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        depth: int = 0,
        rows: Sequence[RowWrite] = (),
    ) -> Written:
        """Decide `command` and write its events, durably, once for each command id, and `rows` in the same commit.

        `depth` is its causation depth.

        Raises Rejected, or FunctionFailed for what else the decision raises, after it was repeated on the newest
        events. UnreadableEvent where an event that it needs cannot be read. UnknownMessage where no decision takes the
        command. InvalidMessage where an id cannot be a tag or be stored, an event could not be read back, or its events
        are too large or too many. FunctionFailed where an inline projection fails on an event. CommandIdReused.
        Conflict after too many retries, or where a row of `rows` is not as expected. Unavailable where the store cannot
        be reached.
        """
        self._inline.refuse()
        decision = self._wiring.decisions.get(type(command))
        if decision is None:
            raise UnknownMessage(f"No decision takes {type(command).__name__}. Add one to `decisions=[…]`.")
        _check_ids(command_id, actor=actor, correlation_id=correlation_id, causation_id=causation_id)
        request_hash = self._messages.request_hash(decision.command.__name__, command)
        now = self._world.now()
        metadata = Metadata(microseconds(now), command_id, correlation_id or command_id, causation_id, actor, depth)
        request = Append(metadata, (), (), command_id, request_hash, tuple(rows))
        prepare = self._wiring.prepare.get(type(command))
        try:
            if prepare is not None:
                command = await _prepared(prepare, command)
            boundary = decision.boundary(command)
        except Exception:
            # External facts may have changed since. A command that was written gets its receipt when it is sent again.
            _, done = await self._folds.refresh({}, command_id)
            if done is not None:
                return await self._repeat(request)
            raise

        def decide(states: Mapping[Fold, FoldedState]) -> Sequence[object]:
            context = Context(command_id, now, actor, secret=self._secret)
            return decision.decide(command, boundary, _states(states), context)

        return await self._append(request, decide, await self._folds.load(boundary.folds), decision.name)

    async def _append(self, request: Append, decide: _Decide, folded: Mapping[Fold, FoldedState], name: str) -> Written:
        """Decide on these states, or on newer ones, until the result can be appended to `request`."""
        command_id = request.command_id or ""
        for attempt in range(self._limits.conflict_retries + 1):
            if attempt:
                folded = await self._newer(folded)
                await self._check_rows(request.rows)
            if attempt > 1:
                await self._inline.check()
            try:
                written, inline = await self._written(decide(folded), command_id)
            except Exception:
                # Rejected, or an error. Both may depend on states that are old or are of different moments.
                newest, done = await self._folds.refresh(folded, command_id)
                if done is not None:
                    return await self._repeat(request)
                if not _came_further(folded, newest):
                    raise
                written, inline = await self._written(decide(newest), command_id)
                folded = newest
            append = Append(
                request.metadata,
                tuple([stored for stored, _ in written]),
                conditions(folded),
                command_id,
                request.request_hash,
                inline.writes + request.rows,
                self._inline.guards,
            )
            outcome = await self._inline.append(append, [event for _, event in written], inline)
            if isinstance(outcome, Appended):
                return _written(command_id, outcome)
            if isinstance(outcome, CommandIdReused):
                raise outcome
        raise Conflict(
            f"{name}: other commands wrote first, {self._limits.conflict_retries + 1} times in a row. "
            "Send the command again."
        )

    async def _check_rows(self, rows: Sequence[RowWrite]) -> None:
        """Conflict where a row is not as expected: then no other decision could be appended with these rows either."""
        for row in rows:
            present = (await self._write_store.rows(row.space, [row.key])).get(row.key)
            if (0 if present is None else present.version) != row.expected:
                raise Conflict(f"The row '{row.key}' of '{row.space}', which is written with the command, was changed.")

    async def _written(
        self, decided: Sequence[object], command_id: str
    ) -> tuple[list[tuple[NewEvent, object]], InlineWrites]:
        """The events to write, each as it is stored and as it will be read, and the inline rows to write with them."""
        limits = self._limits
        if len(decided) > limits.command_events:
            raise _too_much(f"This command makes {len(decided)} events", "command_events", limits.command_events)
        events: list[tuple[NewEvent, object]] = []
        size = 0
        for i, event in enumerate(decided):
            stored, read = self._events.written(event, command_id, i)
            if len(stored.payload) > limits.event_bytes:
                what = f"A '{stored.type}' event of this command has {len(stored.payload)} bytes"
                raise _too_much(what, "event_bytes", limits.event_bytes)
            size += len(stored.payload)
            if size > limits.command_bytes:
                raise _too_much("The events of this command have more bytes", "command_bytes", limits.command_bytes)
            events.append((stored, read))
        return events, await self._inline.rows([event for _, event in events])

    async def _repeat(self, request: Append) -> Written:
        """The first outcome of a command id that was used before. CommandIdReused for another request."""
        outcome = await self._batcher.append(msgspec.structs.replace(request, rows=()), ())
        return _written(request.command_id or "", _appended(outcome))

    async def _newer(self, folded: Mapping[Fold, FoldedState]) -> Mapping[Fold, FoldedState]:
        """Folds newer than those a decision failed on: from the cache if all are newer there, else from the log."""
        cached = await self._folds.load(tuple(folded))
        # A cached state that is not newer may be the one that was too old, and would fail again and again.
        if all(cached[fold].upto > upto for fold, (_, upto) in folded.items()):
            return cached
        refreshed, _ = await self._folds.refresh(folded)
        return refreshed


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


def _check_ids(command_id: str, **others: str | None) -> None:
    """InvalidMessage for ids that a store cannot keep: they would fail all commands of the same commit."""
    if len(command_id) > MAX_COMMAND_ID:
        raise InvalidMessage(f"A command id may have at most {MAX_COMMAND_ID} characters.", field="command_id")
    check_text(command_id, "command_id")
    for field, text in others.items():
        if text is not None:
            check_text(text, field)


def _states(folded: Mapping[Fold, FoldedState]) -> dict[Fold, Any]:
    return {fold: state for fold, (state, _) in folded.items()}


def _came_further(before: Mapping[Fold, FoldedState], after: Mapping[Fold, FoldedState]) -> bool:
    """Whether any state is another object: a fold that saw no new event keeps its object."""
    return any(after[fold].state is not folded.state for fold, folded in before.items())


def _written(command_id: str, outcome: Appended) -> Written:
    return Written(
        [f"{command_id}.{i}" for i in range(outcome.count)], outcome.position, outcome.repeated, outcome.digest
    )


def _appended(outcome: Outcome) -> Appended:
    if isinstance(outcome, Appended):
        return outcome
    raise outcome
