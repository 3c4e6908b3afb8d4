"""Moving a log from one write store to another: it is copied and compared, and only then valid."""

from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import WiringError
from twofold.operations.progress import OnProgress, no_progress
from twofold.write_store.chain import chain_after, chain_start
from twofold.write_store.port import EmptyLog, LogContent, LogIdentity, LogRow, Movable, RememberedCommand, WriteStore

PAGE = 2_000
"""Events, commands and rows that are in memory at once."""


class MoveResult(msgspec.Struct, frozen=True):
    """The log with its new epoch and its head, and how many commands and rows were copied besides the events."""

    log: str
    epoch: int
    head: Position
    commands: int
    rows: int


async def move(source: WriteStore, target: WriteStore, on_progress: OnProgress = no_progress) -> MoveResult:
    """Copy everything in a log to an empty write store, and compare the two before the copy is valid.

    Positions, command ids and rows stay the same, so read models, receipts and policies go on with the new log. It
    begins a new epoch, by which a process that still writes to the old log is detected. All or nothing. WiringError if
    a store cannot be moved, the target is not empty, the source is written meanwhile, or the two differ. Progress
    counts each event twice: copied, then compared.
    """
    old_store, new_store = _movable(source), _movable(target)
    end = await source.read(NO_EVENTS)
    head = end.head
    epoch = old_store.identity.epoch + 1
    identity = LogIdentity(old_store.identity.log, epoch, (*old_store.identity.forks, (epoch, head)))
    async with old_store.content() as old, new_store.importing(identity, head, end.chain) as new:
        commands, rows = await _copy(old, new, head, on_progress)
        if await _compare(old, new, identity, head, on_progress) != end.chain:
            raise WiringError(
                "The chain of the log does not end as its head says: the log is damaged. Nothing was moved."
            )
        if (await source.read(NO_EVENTS)).head != head:
            raise WiringError("The log was written during the move, so nothing was moved. Stop the app, then repeat.")
    return MoveResult(identity.log, identity.epoch, head, commands, rows)


def _movable(write_store: WriteStore) -> Movable:
    if not isinstance(write_store, Movable):
        raise WiringError(f"The log in a {type(write_store).__name__} cannot be moved: it exists only in its process.")
    return write_store


async def _copy(old: LogContent, new: EmptyLog, head: Position, on_progress: OnProgress) -> tuple[int, int]:
    position: Position = 0
    while position < head:
        events = await old.events(position, PAGE)
        if not events:
            raise WiringError(f"The log ends at {position}, but its head is {head}: it is corrupt. Nothing was moved.")
        await new.add_events([event for event in events if event.position <= head])
        position = events[-1].position
        on_progress(min(position, head), 2 * head)
    commands = rows = 0
    async for command_page in _command_pages(old):
        await new.add_commands(command_page)
        commands += len(command_page)
    for space in await old.spaces():
        async for page in _row_pages(old, space):
            await new.add_rows(space, page)
            rows += len(page)
    return commands, rows


async def _compare(
    old: LogContent, new: LogContent, identity: LogIdentity, head: Position, on_progress: OnProgress
) -> bytes:
    """The chain at the head. Both logs are read again, side by side: WiringError at the first difference or damage."""
    position: Position = 0
    chain = chain_start(identity.log)
    while position < head:
        events, copies = await old.events(position, PAGE), await new.events(position, PAGE)
        # Pages end by bytes too, and the two stores may count them in their own ways.
        both = min(len(events), len(copies)) or max(len(events), len(copies))
        for event, copy in zip_longest(events[:both], copies[:both]):
            _same("the event at position", getattr(event or copy, "position", position), event, copy)
            chain = chain_after(chain, event)
            if chain != event.chain or chain != copy.chain:
                raise WiringError(
                    f"The event at position {event.position} is damaged: its bytes do not give the chain that is "
                    "stored with it. Nothing was moved. Run `twofold verify`."
                )
        position = events[both - 1].position
        on_progress(head + min(position, head), 2 * head)
    async for command_page, copied in _side_by_side(_command_pages(old), _command_pages(new)):
        for command, copy in zip_longest(command_page, copied):
            _same("the command id", (command or copy).command_id, command, copy)
    _same("the list of", "row spaces", list(await old.spaces()), list(await new.spaces()))
    for space in await old.spaces():
        async for row_page, copied in _side_by_side(_row_pages(old, space), _row_pages(new, space)):
            _same("the rows of", space, dict(row_page), dict(copied))
    return chain


async def _command_pages(log: LogContent) -> AsyncIterator[Sequence[RememberedCommand]]:
    after = ""
    while page := await log.commands(after, PAGE):
        yield page
        after = page[-1].command_id


async def _row_pages(log: LogContent, space: str) -> AsyncIterator[Mapping[str, LogRow]]:
    after: str | None = None
    while page := await log.rows(space, after, PAGE):
        yield page
        after = list(page)[-1]


async def _side_by_side(pages: AsyncIterator[Any], copies: AsyncIterator[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """The pages of two logs in pairs; an empty one where a log has fewer."""
    while any(pair := (await anext(pages, None), await anext(copies, None))):
        yield pair[0] or (), pair[1] or ()


def _same(what: str, name: object, before: Any, after: Any) -> None:
    if before != after:
        raise WiringError(f"The copy is wrong: {what} {name} differs. Nothing was moved. Run it again.")
