"""Copying what a log holds, with every event checked by its chain."""

from typing import NamedTuple

from twofold.domain.events import Position
from twofold.errors import WiringError
from twofold.operations.progress import OnProgress
from twofold.write_store.chain import chain_after
from twofold.write_store.port import EmptyLog, LogContent

PAGE = 2_000
"""Events, commands and rows that are in memory at once."""


class CopyCounts(NamedTuple):
    """How much was copied."""

    events: int
    commands: int
    rows: int


async def copy_after(
    source: LogContent, target: EmptyLog, after: Position, chain: bytes, head: Position, on_progress: OnProgress
) -> CopyCounts:
    """Copy the events after a position, where the log has `chain`; the commands from there on; and all rows.

    WiringError where an event is missing or does not fit the chain.
    """
    position = after
    while position < head:
        events = [event for event in await source.events(position, PAGE) if event.position <= head]
        for event in events:
            chain = chain_after(chain, event)
            if event.position != position + 1 or event.chain != chain:
                break
            position += 1
        if not events or events[-1].position != position:
            raise WiringError(
                f"The event at position {position + 1} is missing or damaged: it does not fit the chain. Run "
                "`twofold verify` on the log."
            )
        await target.add_events(events)
        on_progress(position - after, head - after)
    commands, last = 0, ""
    while command_page := await source.commands(last, PAGE):
        new = [command for command in command_page if command.position >= after]
        await target.add_commands(new)
        commands, last = commands + len(new), command_page[-1].command_id
    rows = 0
    for space in await source.spaces():
        key: str | None = None
        while page := await source.rows(space, key, PAGE):
            await target.add_rows(space, page)
            rows, key = rows + len(page), list(page)[-1]
    return CopyCounts(head - after, commands, rows)


async def refuse_other_content(log: LogContent, chain: bytes, head: Position, head_chain: bytes) -> None:
    """WiringError unless a log, read from its first event, ends at a position with a chain. `chain` is its start."""
    position: Position = 0
    while events := await log.events(position, PAGE):
        for event in events:
            chain = chain_after(chain, event)
            position += 1
            if (event.position, event.chain) != (position, chain):
                raise WiringError(f"The copy is wrong at position {position}. Nothing was replaced. Run it again.")
    if (position, chain) != (head, head_chain):
        raise WiringError(f"The copy ends at position {position}, not at {head}. Nothing was replaced. Run it again.")
