"""The check of a log, page by page: its head, events, index, remembered commands and files."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from twofold.domain.events import Position
from twofold.write_store.chain import chain_start
from twofold.write_store.port import RawLog, RawState, Verifiable
from twofold.write_store.verification import (
    Damage,
    LogUnreadable,
    RawEvent,
    TagEntry,
    command_damages,
    command_of,
    damages,
    head_damages,
    index_damages,
    row_damages,
    state_damages,
    total_damages,
)

Part = Literal["head", "events", "index", "commands", "rows", "state", "files"]
MARGIN = 3_600_000_000
"""Command ids this much younger than their retention, in microseconds, may be gone: what forgets them may be early."""


class CheckedPage(NamedTuple):
    """What was checked in one step: `done` positions or rows of that part of the log so far, and the damages found."""

    part: Part
    done: int
    damages: Sequence[Damage]
    events: Sequence[RawEvent] = ()


class LogRange(NamedTuple):
    """The positions to be checked, and the head at the start, which is as far as any check goes."""

    first: Position
    last: Position
    head: Position

    @property
    def whole(self) -> bool:
        """Whether this is the whole log."""
        return self.first <= 1 and self.last == self.head

    def holds(self, damage: Damage) -> bool:
        """Whether a damage is in here."""
        return self.whole or (damage.end >= self.first and damage.position <= self.last)


async def checked_pages(
    store: Verifiable, positions: LogRange, *, page: int, now: Callable[[], int], files: bool = True
) -> AsyncIterator[CheckedPage]:
    """Check a range of a log beside a running writer, a page at a time. Damage is in what comes back, never raised.

    `now` is the time in microseconds, to tell which command ids must be remembered. `files` also looks for missing
    command ids and rows, and lets the store check its files, which takes long and cannot be divided. Unavailable where
    the store cannot be reached.
    """
    raw = store.raw_log()
    parts: list[AsyncIterator[CheckedPage]] = [
        _head(raw, store.identity.log),
        _events(raw, store, positions, page, now),
        _index(raw, page),
        _commands(raw, page),
        _rows(store.raw_state(), page),
        _state(store.raw_state()),
    ]
    if files:
        parts.append(_files(raw, store.raw_state()))
    for part in parts:
        try:
            async for checked in part:
                if checked.part in ("index", "commands"):
                    checked = checked._replace(damages=[each for each in checked.damages if positions.holds(each)])
                yield checked
        except LogUnreadable as error:
            yield CheckedPage("files", 0, [Damage(0, f"The log cannot be read: {error}.")])


async def _head(raw: RawLog, log: str) -> AsyncIterator[CheckedPage]:
    yield CheckedPage("head", 1, list(head_damages(await raw.head(), log)))


async def _events(
    raw: RawLog, store: Verifiable, positions: LogRange, page: int, now: Callable[[], int]
) -> AsyncIterator[CheckedPage]:
    after, chain = positions.first - 1, chain_start(store.identity.log)
    if after > 0:
        before = await raw.events(after - 1, 1)
        chain = before[0].chain if before and before[0].position == after else b""
    memory = _Remembered(raw, positions.first, lambda: now() - store.retention + MARGIN)
    while after < positions.last:
        events = [event for event in await raw.events(after, page) if event.position <= positions.last]
        _refuse_disorder("events", [event.position for event in events], after)
        # Where fewer came than there are, the rest is missing.
        upto = events[-1].position if len(events) == page else positions.last
        found = list(damages(events, after, chain, upto))
        found += await memory.missing(events)
        if upto == positions.head:
            found += await memory.missing_last()
        yield CheckedPage("events", upto - positions.first + 1, found, events)
        after, chain = upto, events[-1].chain if events else chain


class _EventsOfCommand(NamedTuple):
    command_id: str
    first: Position
    last: Position
    time: int


class _Remembered:
    """Compares the events of a log with what is remembered of their commands."""

    def __init__(self, raw: RawLog, first: Position, oldest: Callable[[], int]) -> None:
        self._raw = raw
        self._first = first
        self._oldest = oldest
        self._open: _EventsOfCommand | None = None

    async def missing(self, events: Iterable[RawEvent]) -> list[Damage]:
        """What is wrong with what is remembered of the commands whose events end here."""
        ended: list[_EventsOfCommand] = []
        for event in events:
            command = command_of(event.stored.head)
            known = self._open
            if known is not None and command == (known.command_id, known.time) and event.position == known.last + 1:
                self._open = known._replace(last=event.position)
                continue
            if known is not None:
                ended.append(known)
            at = event.position
            self._open = None if command is None else _EventsOfCommand(command[0], at, at, command[1])
        return await self._compared(ended)

    async def missing_last(self) -> list[Damage]:
        """The same of the last command, where no event follows: a log ends with the last event of a command."""
        return await self._compared([self._open] if self._open is not None else [])

    async def _compared(self, commands: Sequence[_EventsOfCommand]) -> list[Damage]:
        rows: Mapping[str, tuple[Position, int]] = {}
        if commands:
            rows = await self._raw.remembered([each.command_id for each in commands])
        oldest = self._oldest()
        found: list[Damage] = []
        for each in commands:
            row = rows.get(each.command_id)
            expected = each.last, each.last - each.first + 1
            if row is None:
                if each.time >= oldest:
                    text = f"The command id '{each.command_id}' of the event at {each.last} is not remembered."
                    found.append(Damage(each.last, text, command_id=each.command_id))
            elif row != expected and row[0] <= each.last and not (each.first == self._first > 1):
                text = (
                    f"The command id '{each.command_id}' is remembered with {row[1]} events up to position {row[0]}, "
                    f"but its events are those from {each.first} to {each.last}."
                )
                found.append(Damage(each.last, text, command_id=each.command_id))
        return found


def _refuse_disorder(what: str, keys: Sequence[Any], after: Any) -> None:
    """LogUnreadable unless the keys of a page are in order, each after the one before: else pages would never end."""
    for key in keys:
        if after is not None and key <= after:
            raise LogUnreadable(f"the {what} are not in the order of their keys")
        after = key


async def _index(raw: RawLog, page: int) -> AsyncIterator[CheckedPage]:
    after: TagEntry | None = None
    done = 0
    while entries := await raw.index(after, page):
        _refuse_disorder("entries of the index", [entry[:3] for entry in entries], None if after is None else after[:3])
        done += len(entries)
        yield CheckedPage("index", done, list(index_damages(entries)))
        after = entries[-1]


async def _commands(raw: RawLog, page: int) -> AsyncIterator[CheckedPage]:
    after, done = "", 0
    while rows := await raw.commands(after, page):
        _refuse_disorder("command ids", [row.command_id for row in rows], after)
        done += len(rows)
        # The head is read after them: they are within it.
        yield CheckedPage("commands", done, list(command_damages(rows, (await raw.head()).position)))
        after = rows[-1].command_id


async def _rows(raw: RawState, page: int) -> AsyncIterator[CheckedPage]:
    after, done = ("", ""), 0
    while rows := await raw.rows(after, page):
        _refuse_disorder("rows", [row[:2] for row in rows], after)
        done += len(rows)
        yield CheckedPage("rows", done, list(row_damages(rows)))
        after = rows[-1][:2]


async def _state(raw: RawState) -> AsyncIterator[CheckedPage]:
    yield CheckedPage("state", 1, list(state_damages(await raw.state())))


async def _files(raw: RawLog, state: RawState) -> AsyncIterator[CheckedPage]:
    yield CheckedPage("files", 0, list(total_damages(await state.totals())))
    yield CheckedPage("files", 1, [Damage(0, sentence) for sentence in await raw.storage()])
