"""Copying a log: every event is checked by the hash chain, read back, and compared."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from twofold.domain.events import Position, RecordedEvent
from twofold.errors import ForkedHistory, WiringError
from twofold.world import World
from twofold.write_store.chain import chain_after, chain_digest, chain_start
from twofold.write_store.log_content import LogContent, LogCopy, LogSnapshot
from twofold.write_store.port import LogRow

PAGE = 2_000
"""Events, commands and rows that are in memory at once."""
SETTLED_AT_ONCE = 10_000
"""Events that are copied in one transaction with the commands and rows that belong to them."""

PAUSE_AFTER = 500
"""Events that are copied at once beside a running app, which has its turn after them."""

OnProgress = Callable[[Position, Position], None]
"""Called with the last position that was copied, and the head."""
RowKeys = Mapping[str, Sequence[str]]
"""Keys of rows by space."""


class CopyCounts(NamedTuple):
    """How much was copied."""

    events: int
    commands: int
    rows: int


class Pace(NamedTuple):
    """Where the progress of a copy goes, and how many events are copied before other tasks of the process continue."""

    on_progress: OnProgress
    world: World
    page: int = PAGE


async def copy_all(source: LogContent, copy: LogCopy, end: tuple[Position, bytes], pace: Pace) -> CopyCounts:
    """Copy the events after the head of a copy up to an end, the commands from there on, and all rows.

    `end` is the head of the source and the chain there. WiringError where an event is missing or does not fit the
    chain, or the source ends otherwise.
    """
    after, (head, chain) = copy.head, end
    await copy_events(source, copy, head, pace)
    if copy.chain != chain:
        raise WiringError(
            f"The chain at position {head} is {chain_digest(copy.chain)}, but the log ends with {chain_digest(chain)}."
        )
    commands = await _copy_commands(source, copy, after, pace)
    rows = 0
    for space in await source.spaces():
        key: str | None = None
        while page := await source.rows(space, key, PAGE):
            await copy.set_rows(space, page)
            rows, key = rows + len(page), _next_key(key, list(page)[-1])
            await pace.world.sleep(0)
    return CopyCounts(head - after, commands, rows)


async def copy_events(source: LogContent, copy: LogCopy, head: Position, pace: Pace) -> None:
    """Copy the events after the head of a copy up to `head`, page by page."""
    while copy.head < head:
        events = [event for event in await source.events(copy.head, pace.page) if event.position <= head]
        _refuse_damaged(events, copy.head, copy.chain)
        async with copy.transaction():
            after = copy.head
            await copy.add_events(events)
            await _refuse_other(copy, events, after)
        pace.on_progress(copy.head, head)
        await pace.world.sleep(0)


def _refuse_damaged(events: Sequence[RecordedEvent], position: Position, chain: bytes) -> None:
    """WiringError unless these are the events after a position, where the log has `chain`."""
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


async def _refuse_other(copy: LogCopy, events: Sequence[RecordedEvent], after: Position) -> None:
    """WiringError unless the copy has these events after a position."""
    read = 0
    while read < len(events):
        page = list(islice(await copy.events(after + read, PAGE), len(events) - read))
        for event, copied in zip(events[read:], page, strict=False):
            if event != copied or event.chain != copied.chain:
                raise WiringError(f"The copy is wrong: the event at position {event.position} differs. Run it again.")
        if not page:
            raise WiringError(f"The copy is wrong: it has no event at position {after + read + 1}. Run it again.")
        read += len(page)


async def _copy_commands(source: LogContent, copy: LogCopy, since: Position, pace: Pace) -> int:
    count, last = 0, ""
    while page := await source.commands(last, pace.page):
        new = [command for command in page if command.position >= since]
        count += await copy.add_commands(new)
        last = _next_key(last, page[-1].command_id)
        await pace.world.sleep(0)
    return count


class LogCopier:
    """Brings a copy up to date with its source, again and again: each time with one snapshot of the source.

    The first time all commands are read, and the versions of all rows are compared. Later only what is new is copied.
    """

    def __init__(self, copy: LogCopy, pace: Pace) -> None:
        self.copy = copy
        self.counts = CopyCounts(0, 0, 0)
        self._pace = pace
        self._since: Position | None = None

    async def update(self, source: LogSnapshot, changed: RowKeys | None = None) -> CopyCounts:
        """Copy what the source has and the copy has not. Afterwards the copy is settled at the head of the snapshot.

        `changed` are the rows that may have changed since the last time; None: their versions are compared.
        ForkedHistory where the copy is of another history. WiringError where the source is damaged.
        """
        copy, began = self.copy, self.copy.head
        await refuse_fork(source, copy)
        first = self._since is None
        if first or source.head - copy.head > SETTLED_AT_ONCE:
            await copy_events(source, copy, source.head, self._pace)
        commands = rows = 0
        if first:
            commands = await _copy_commands(source, copy, 0, self._pace)
            rows = await copy_changed_rows(source, copy, self._pace)
        async with copy.transaction():
            await copy_events(source, copy, source.head, self._pace)
            if self._since is not None:
                commands = await copy.add_commands(await source.commands_since(self._since))
                if changed is None:
                    rows = await copy_changed_rows(source, copy, self._pace)
                else:
                    rows = await _copy_rows(source, copy, changed)
            if copy.chain != source.chain:
                raise WiringError(
                    f"The chain at position {source.head} is {chain_digest(copy.chain)}, but the log ends with "
                    f"{chain_digest(source.chain)}: the log is damaged. Run `twofold verify`."
                )
            await copy.settle(source.identity)
        self._since = source.head
        done = self.counts
        self.counts = CopyCounts(done.events + source.head - began, done.commands + commands, done.rows + rows)
        return CopyCounts(source.head - began, commands, rows)


async def refuse_fork(source: LogSnapshot, copy: LogCopy) -> None:
    """ForkedHistory where a copy does not hold the beginning of a log."""
    there = chain_start(source.identity.log)
    if copy.head:
        events = await source.events(copy.head - 1, 1)
        there = events[0].chain if events else b""
    if source.identity.log != copy.identity.log or there != copy.chain:
        here = chain_digest(copy.chain)
        raise ForkedHistory(
            f"The copy is of the log {copy.identity.log} up to position {copy.head} ({here}). The log "
            f"{source.identity.log}, which ends at {source.head}, has another history. Begin a new copy elsewhere."
        )


async def copy_changed_rows(source: LogSnapshot, copy: LogCopy, pace: Pace) -> int:
    """Make the rows of a copy those of its source; how many were written or deleted. Their versions are compared."""
    changed = 0
    for space in sorted({*await source.spaces(), *await copy.spaces()}):
        after: str | None = None
        more = True
        while more:
            page = await source.versions(space, after, None, PAGE)
            more = len(page) == PAGE
            last = _next_key(after, list(page)[-1]) if more else None
            there = await _all_versions(copy, space, after, last)
            keys = [key for key, version in page.items() if there.get(key) != version]
            rows: dict[str, LogRow | None] = dict(await source.rows_of(space, keys)) if keys else {}
            rows |= dict.fromkeys(there.keys() - page.keys())
            if rows:
                await copy.set_rows(space, rows)
            changed, after = changed + len(rows), last
            await pace.world.sleep(0)
    return changed


def _next_key(after: str | None, last: str) -> str:
    """The last key of a page that begins after a key. WiringError where it is not after that: pages would not end."""
    if after is not None and last <= after:
        raise WiringError(f"The log is damaged: '{last}' is stored after '{after}'. Run `twofold verify`.")
    return last


async def _all_versions(copy: LogCopy, space: str, after: str | None, upto: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    while page := await copy.versions(space, after, upto, PAGE):
        found |= page
        after = _next_key(after, list(page)[-1])
    return found


async def _copy_rows(source: LogSnapshot, copy: LogCopy, changed: RowKeys) -> int:
    for space, keys in changed.items():
        for start in range(0, len(keys), PAGE):
            some = keys[start : start + PAGE]
            present = await source.rows_of(space, some)
            await copy.set_rows(space, {key: present.get(key) for key in some})
    return sum(map(len, changed.values()))
