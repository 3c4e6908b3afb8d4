"""What is wrong with a log, judged from its raw rows: events, index, remembered commands and head."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from twofold.domain.envelope import StoredEnvelope, decode_envelope, encode_tags
from twofold.domain.events import Position
from twofold.write_store.chain import chain_digest, chain_start, content_digest, link
from twofold.write_store.checksums import command_checksum, epoch_checksums, numbers_checksum, row_checksum

_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, TypeError)
_decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode


class RawEvent(NamedTuple):
    """An event as it is stored. `type` is None where its number has no name; `unindexed` are tags without an entry."""

    position: Position
    type: str | None
    version: int
    payload: bytes
    stored: StoredEnvelope
    chain: bytes
    unindexed: Sequence[str] = ()


class Damage(NamedTuple):
    """What is wrong at a position, or from there up to `last`, in a sentence.

    `tags` are those of the events there, None where nobody can tell. `command_id` is the remembered command that is
    wrong, `row` the space and the key of a row that is; no event is, then.
    """

    position: Position
    message: str
    tags: frozenset[str] | None = None
    last: Position = 0
    command_id: str | None = None
    row: tuple[str, str] | None = None

    @property
    def end(self) -> Position:
        """The last position that is damaged."""
        return max(self.position, self.last)


class TagEntry(NamedTuple):
    """An entry of the index of tags, and the event at its position: its number of the type, and its stored tags.

    `tag` is empty for the entry by type alone. The last two are None where there is no event.
    """

    tag: str
    type_id: int
    position: Position
    stored_type: int | None
    stored_tags: bytes | None


class CommandRow(NamedTuple):
    """A remembered command with its number of events, and the heads of the envelopes of the first and the last one."""

    command_id: str
    position: Position
    events: int
    first: bytes | None
    last: bytes | None
    request_hash: bytes
    recorded_at: int
    nonce: int
    checksum: int


class RowOfLog(NamedTuple):
    """A row that is stored beside the events: of policies, inline projections, leases and what else."""

    space: str
    key: str
    version: int
    value: bytes
    checksum: int


class StateRow(NamedTuple):
    """The beginnings of epochs, each with its checksum, and the clock of command ids with its own.

    The clock is None where the store keeps none.
    """

    epochs: Sequence[tuple[int, Position, int]]
    clock: int | None = None
    clock_checksum: int = 0


class ChecksumTotals(NamedTuple):
    """The sums of the checksums of all remembered commands and of all rows, and those that stand beside the head."""

    commands: int
    expected_commands: int
    rows: int
    expected_rows: int


class HeadRow(NamedTuple):
    """The row of the head, and what it must agree with, from one snapshot.

    `last_chain` is the chain of the event at `position`, `beyond` the position of an event after it, `begun` the last
    epoch that is recorded: None where there is none. `log` is the name of the log.
    """

    position: Position
    chain: bytes
    epoch: int
    last_chain: bytes | None
    beyond: Position | None
    begun: int | None
    log: str


class LogUnreadable(Exception):
    """The store cannot read what is stored, because it is damaged. The text says what."""


def damages(raw_events: Iterable[RawEvent], after: Position, chain: bytes, head: Position) -> Iterator[Damage]:
    """What is wrong with the events after a position, where the log has `chain`, up to the head. In order.

    After a damaged event the check goes on from the chain that is stored with it, so that each damage is named once.
    """
    for raw in raw_events:
        if raw.position > head:
            yield Damage(raw.position, f"The event at {raw.position} is beyond the head, which is {head}.")
            continue
        if raw.position > after + 1:
            yield _missing(after + 1, raw.position - 1)
        elif reason := _damage(raw, chain):
            yield Damage(raw.position, f"The event at {raw.position} {reason}.", _tags(raw))
        after, chain = raw.position, raw.chain
    if after < head:
        yield _missing(after + 1, head)


def head_damages(head: HeadRow, log: str) -> Iterator[Damage]:
    """What is wrong with the row of the head."""
    expected = head.last_chain if head.position else chain_start(log)
    if expected is None:
        yield Damage(head.position, f"The head is {head.position}, and there is no event at that position.")
    elif head.chain != expected:
        yield Damage(head.position, f"The head has another chain than the event at {head.position}.")
    if head.beyond is not None:
        yield Damage(head.beyond, f"The event at {head.beyond} is beyond the head, which is {head.position}.")
    if head.log != log:
        yield Damage(head.position, f"The head is of the log {head.log}, and this is the log {log}.")
    if head.epoch != (head.begun or 1):
        yield Damage(
            head.position, f"The head is in epoch {head.epoch}, but the last one that began is {head.begun or 1}."
        )


def index_damages(entries: Iterable[TagEntry]) -> Iterator[Damage]:
    """The entries of the index that no event has. Whether an event has all its entries, `damages` says."""
    for entry in entries:
        what = f"The index has an entry by {entry.tag or 'a type'} for position {entry.position}"
        if entry.stored_type is None or entry.stored_tags is None:
            yield Damage(entry.position, f"{what}, and there is no event.")
            continue
        tags = stored_tags(entry.stored_tags)
        if entry.type_id != entry.stored_type:
            yield Damage(entry.position, f"{what}, whose event is of another type.")
        elif tags is None or (entry.tag and entry.tag not in tags):
            yield Damage(
                entry.position,
                f"{what}, whose event does not have that tag.",
                None if tags is None else frozenset((*tags, entry.tag)),
            )


def command_damages(rows: Iterable[CommandRow], head: Position) -> Iterator[Damage]:
    """The remembered commands whose events are not at their positions."""
    for row in rows:
        reason = None
        stored = row.command_id, row.request_hash, row.position, row.events, row.recorded_at, row.nonce
        if command_checksum(*stored) != row.checksum:
            text = f"What is remembered of the command id '{row.command_id}' is not what was written."
            yield Damage(max(0, row.position), text, command_id=row.command_id)
            continue
        if row.events < 0 or not row.events <= row.position <= head:
            reason = f"with {row.events} events up to position {row.position}, of a log that ends at {head}"
        elif row.events and not _is_of(row, row.first) | _is_of(row, row.last):
            reason = f"with {row.events} events up to position {row.position}, which are not its own"
        elif row.events and not (_is_of(row, row.first) and _is_of(row, row.last)):
            reason = f"with {row.events} events up to position {row.position}, of which not all are its own"
        if reason is not None:
            text = f"The command id '{row.command_id}' is remembered {reason}."
            yield Damage(max(0, row.position), text, command_id=row.command_id)


def row_damages(rows: Iterable[RowOfLog]) -> Iterator[Damage]:
    """The rows that are not what was written."""
    for space, key, version, value, checksum in rows:
        if row_checksum(space, key, version, value) != checksum:
            yield Damage(0, f"The row '{key}' of '{space}' is not what was written.", row=(space, key))


def state_damages(state: StateRow) -> Iterator[Damage]:
    """What is wrong with the beginnings of epochs, and with the clock of command ids."""
    if epoch_checksums([(epoch, after) for epoch, after, _ in state.epochs]) != [each[2] for each in state.epochs]:
        begun = ", ".join(f"{epoch} after {after}" for epoch, after, _ in state.epochs)
        yield Damage(0, f"The epochs that began ({begun}) are not those that were written.")
    if state.clock is not None and numbers_checksum(state.clock) != state.clock_checksum:
        yield Damage(0, f"The clock of command ids is at {state.clock}, which is not what was written.")


def total_damages(totals: ChecksumTotals) -> Iterator[Damage]:
    """Whether a remembered command or a row is missing, or another one is in its place."""
    kinds = (
        ("command ids", totals.commands, totals.expected_commands),
        ("rows", totals.rows, totals.expected_rows),
    )
    for what, found, expected in kinds:
        if found != expected:
            text = f"The {what} are not all that were written: the sum of their checksums is {found}, not {expected}."
            yield Damage(0, text)


def stored_tags(stored: bytes) -> tuple[str, ...] | None:
    """The tags in stored bytes; None where these are no tags."""
    try:
        return _decode_tags(stored)
    except _NOT_DECODED:
        return None


def command_of(head: bytes) -> tuple[str, int] | None:
    """Command id and time in the stored head of an envelope; None where it cannot be decoded."""
    try:
        metadata = decode_envelope(StoredEnvelope(head, b"[]")).metadata
    except _NOT_DECODED:
        return None
    return metadata.command_id, metadata.time


def _is_of(row: CommandRow, head: bytes | None) -> bool:
    command = None if head is None else command_of(head)
    return command is not None and command[0] == row.command_id


def _missing(first: Position, last: Position) -> Damage:
    return Damage(first, f"{_range(first, last)} missing.", last=last)


def _tags(raw: RawEvent) -> frozenset[str] | None:
    """The tags of a damaged event, where its stored bytes can be believed: the index says the same."""
    tags = stored_tags(raw.stored.tags)
    return None if tags is None or any(tag not in tags for tag in raw.unindexed if tag) else frozenset(tags)


def _range(first: Position, last: Position) -> str:
    return f"The event at {first} is" if first == last else f"The events from {first} to {last} are"


def _damage(raw: RawEvent, chain: bytes) -> str | None:
    if raw.type is None:
        return "has a type without a name"
    # A damaged row may hold another type than the one that was written.
    columns: list[Any] = [raw.payload, raw.stored.head, raw.stored.tags, raw.chain]
    if not all(isinstance(column, bytes) for column in columns):
        return "is not stored as bytes"
    expected = link(chain, content_digest(raw.type, raw.version, raw.stored.head, raw.payload))
    if raw.chain != expected:
        return (
            f"does not fit the chain: its bytes give {chain_digest(expected)}, and {chain_digest(raw.chain)} is stored"
        )
    try:
        tags = decode_envelope(raw.stored).tags
    except _NOT_DECODED as error:
        return f"has an envelope that cannot be decoded ({error})"
    if encode_tags(tags) != raw.stored.tags:
        return "has tags that were not written by Twofold"
    if raw.unindexed:
        return f"is not in the index by {', '.join(tag or 'its type' for tag in raw.unindexed)}"
    return None
