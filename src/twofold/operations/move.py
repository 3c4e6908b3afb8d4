"""In charge of moving a log from one write store to another: copied, compared, and only then there."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import WiringError
from twofold.write_store.port import EmptyLog, LogContent, LogIdentity, Movable, WriteStore

PAGE = 2_000
"""Events, commands and rows that are held in memory at once."""

Progress = Callable[[int, int], None]
"""Hears how many events are done, and of how many: each is copied, and then compared."""


class Moved(msgspec.Struct, frozen=True):
    """What was moved: the log under its new epoch, its head, and how much lies beside the events."""

    log: str
    epoch: int
    head: Position
    commands: int
    rows: int


async def move(source: WriteStore, target: WriteStore, on_progress: Progress | None = None) -> Moved:
    """Copy everything a log holds into an empty one, and compare the two before the copy counts.

    Positions, command ids and rows stay as they are, so that read models, receipts and policies go on with the new one.
    It begins a new epoch: whoever goes on writing the old one by mistake is found out. All or nothing. WiringError
    where a store cannot be moved, the target is not empty, the source is written meanwhile, or the two differ.
    """
    here, there = _movable(source), _movable(target)
    head = (await source.read(NO_EVENTS)).head
    identity = _next_epoch(here.identity, head)
    report = on_progress or _tell_nobody
    async with here.content() as old, there.importing(identity, head) as new:
        commands, rows = await _copy(old, new, head, report)
        await _compare(old, new, head, report)
        if (await source.read(NO_EVENTS)).head != head:
            raise WiringError("The log was written while it was moved; nothing was moved. Stop what writes it first.")
    return Moved(identity.log, identity.epoch, head, commands, rows)


def _tell_nobody(done: int, total: int) -> None:
    return None


def _movable(write_store: WriteStore) -> Movable:
    if not isinstance(write_store, Movable):
        raise WiringError(f"The log in a {type(write_store).__name__} cannot be moved: it lives inside of its process.")
    return write_store


def _next_epoch(identity: LogIdentity, head: Position) -> LogIdentity:
    epoch = identity.epoch + 1
    return LogIdentity(identity.log, epoch, (*identity.forks, (epoch, head)))


async def _copy(old: LogContent, new: EmptyLog, head: Position, report: Progress) -> tuple[int, int]:
    position: Position = 0
    while position < head:
        events = await old.events(position, PAGE)
        if not events:
            raise WiringError(f"The log ends at {position}, but its head is {head}: it is damaged. Nothing was moved.")
        await new.add_events([event for event in events if event.position <= head])
        position = events[-1].position
        report(min(position, head), 2 * head)
    commands = rows = 0
    after = ""
    while page := await old.commands(after, PAGE):
        await new.add_commands(page)
        commands, after = commands + len(page), page[-1].command_id
    for space in await old.spaces():
        key: str | None = None
        while found := await old.rows(space, key, PAGE):
            await new.add_rows(space, found)
            rows, key = rows + len(found), list(found)[-1]
    return commands, rows


async def _compare(old: LogContent, new: LogContent, head: Position, report: Progress) -> None:
    """Read both again, side by side. WiringError at the first thing that differs."""
    position: Position = 0
    while position < head:
        events = await old.events(position, PAGE)
        copies = await new.events(position, PAGE)
        for event, copy in zip_longest(events, copies):
            _same("the event at position", getattr(event or copy, "position", position), event, copy)
        position = events[-1].position
        report(head + min(position, head), 2 * head)
    after = ""
    while True:
        commands, kept = await old.commands(after, PAGE), await new.commands(after, PAGE)
        for command, copied in zip_longest(commands, kept):
            _same("the command id", getattr(command or copied, "command_id", after), command, copied)
        if not commands:
            break
        after = commands[-1].command_id
    _same("the list of", "row spaces", list(await old.spaces()), list(await new.spaces()))
    for space in await old.spaces():
        key: str | None = None
        while True:
            rows, same = await old.rows(space, key, PAGE), await new.rows(space, key, PAGE)
            _same("the rows of", space, dict(rows), dict(same))
            if not rows:
                break
            key = list(rows)[-1]


def _same(what: str, name: object, before: Any, after: Any) -> None:
    if before != after:
        raise WiringError(f"The copy is not what was copied: {what} {name} differs. Nothing was moved; try it again.")
