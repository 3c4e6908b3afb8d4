"""The check of a whole log or a part of it for damage, and of its events against the code that is to read them."""

from collections.abc import Mapping, Sequence

import msgspec

from twofold.app import App
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import ForkedHistory, InvalidMessage, Unavailable, UnreadableEvent, WiringError
from twofold.operations.progress import OnProgress, no_progress
from twofold.operations.signed_checkpoint import SignedCheckpoint, chain_at, other_history
from twofold.world import World, microseconds
from twofold.write_store.chain import chain_digest
from twofold.write_store.history import check_history, digest_at
from twofold.write_store.log_check import LogRange, checked_pages
from twofold.write_store.port import Verifiable, WriteStore
from twofold.write_store.verification import Damage, LogUnreadable, RawEvent

PAGE = 1_000
"""Events, and rows, that are in memory at once."""
MOST_SHOWN = 100
"""Damages that are named; all are counted."""


class DamageReport(msgspec.Struct, frozen=True):
    """Damage at a position; 0 if it belongs to none."""

    position: Position
    message: str


class UnreadableType(msgspec.Struct, frozen=True):
    """Stored events of one type and version that the code cannot read: the first position, and how many there are."""

    type: str
    version: int
    position: Position
    count: int
    message: str


class VerifyResult(msgspec.Struct, frozen=True):
    """What was checked, and what is wrong.

    `first` and `last` are the positions of the range, `digest` is that of the chain at `last`, `head` the position of
    the head at the start. `events`, `entries` and
    `commands` and `rows` count what was read. `damages` are the first ones, `damage_count` counts all.
    """

    log: str
    epoch: int
    first: Position
    last: Position
    digest: str
    head: Position
    events: int
    entries: int
    commands: int
    rows: int
    damages: list[DamageReport]
    damage_count: int
    unreadable: list[UnreadableType]

    @property
    def all_right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage_count and not self.unreadable


async def verify(
    write_store: WriteStore,
    world: World,
    *,
    app: App | None = None,
    first: Position = 1,
    last: Position | None = None,
    expected: Mapping[Position, str] | None = None,
    checkpoints: Sequence[SignedCheckpoint] = (),
    on_progress: OnProgress = no_progress,
) -> VerifyResult:
    """Check the events of a log from `first` to `last` (its end), beside a running writer.

    `expected` are digests by position that were kept elsewhere, `checkpoints` signed ones: they show a log that was
    rewritten and linked again. With an `app` also whether its code can read every payload, and gives it the tags that
    are stored. WiringError where the store cannot be checked, or the range is empty. What is damaged is in the result.
    """
    if not isinstance(write_store, Verifiable):
        raise WiringError(f"The log in a {type(write_store).__name__} cannot be verified: it exists only in memory.")
    found = _Findings()
    try:
        head = (await write_store.raw_log().head()).position
    except LogUnreadable as error:
        head = 0
        found.add([Damage(0, f"The head of the log cannot be read: {error}.")])
    if first < 1 or first > max(1, head):
        raise WiringError(f"There is no position {first}: the log ends at {head}.")
    end = head if last is None else min(last, head)
    if last is not None and last < first:
        raise WiringError(f"The range from {first} to {last} is empty. Name a last position at or after the first.")
    counts = {"events": 0, "index": 0, "commands": 0, "rows": 0}
    reader = None if app is None else _Reader(app, found)
    positions = LogRange(first, end, head)
    async for page in checked_pages(write_store, positions, page=PAGE, now=lambda: microseconds(world.now())):
        found.add(page.damages)
        if page.part in counts:
            counts[page.part] = page.done if page.part != "events" else counts["events"] + len(page.events)
        if page.part == "events":
            on_progress(page.done, end - first + 1)
        if reader is not None:
            for raw in page.events:
                reader.read(raw)
    for position, digest in (expected or {}).items():
        found.add(await _other_digest(write_store, position, digest))
    for checkpoint in checkpoints:
        found.add(await other_history(write_store, checkpoint))
    identity = write_store.identity
    return VerifyResult(
        log=identity.log,
        epoch=identity.epoch,
        first=first,
        last=end,
        digest=await digest_at(write_store, end),
        head=head,
        events=counts["events"],
        entries=counts["index"],
        commands=counts["commands"],
        rows=counts["rows"],
        damages=found.shown,
        damage_count=found.count,
        unreadable=list(reader.unreadable.values()) if reader is not None else [],
    )


async def checkpoint_of(write_store: WriteStore, result: VerifyResult, world: World, key: bytes) -> SignedCheckpoint:
    """The checkpoint at the end of what was verified, signed. WiringError where that was not all right."""
    if not result.all_right or result.first != 1:
        raise WiringError(
            "A checkpoint is written only of a log that was verified from its first position and is all right."
        )
    chain = await chain_at(write_store, result.last)
    if chain_digest(chain) != result.digest:
        raise Unavailable(f"The chain at position {result.last} has changed while the log was verified.")
    time = world.now().isoformat(timespec="seconds")
    return SignedCheckpoint(result.log, result.epoch, result.last, chain.hex(), time).signed(key)


async def _other_digest(write_store: WriteStore, position: Position, digest: str) -> list[Damage]:
    """Damage where the log has another digest at a position than was kept elsewhere."""
    try:
        await check_history(write_store, write_store.identity.stamp(digest), position)
    except ForkedHistory as error:
        return [Damage(position, f"The log is not the one that was expected. {error}")]
    return []


class _Findings:
    """The damages found: the first ones, and how many."""

    def __init__(self) -> None:
        self.shown: list[DamageReport] = []
        self.count = 0

    def add(self, damages: Sequence[Damage]) -> None:
        self.count += len(damages)
        for damage in damages[: MOST_SHOWN - len(self.shown)]:
            self.shown.append(DamageReport(damage.position, damage.message))


class _Reader:
    """Reads events as an app does, and compares the tags that its code gives them with those that are stored."""

    def __init__(self, app: App, found: _Findings) -> None:
        self._app = app
        self._found = found
        self.unreadable: dict[tuple[str, int], UnreadableType] = {}

    def read(self, raw: RawEvent) -> None:
        if raw.type is None:
            return
        recorded = RecordedEvent(raw.position, raw.type, raw.version, raw.payload, raw.stored)
        try:
            tags = self._app.events.tags_of(recorded)
        except (Unavailable, UnreadableEvent, InvalidMessage) as error:
            key = raw.type, raw.version
            known = self.unreadable.get(key) or UnreadableType(*key, raw.position, 0, str(error))
            self.unreadable[key] = msgspec.structs.replace(known, count=known.count + 1)
            return
        try:
            missing = sorted(set(tags) - set(recorded.tags))
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The damage is reported by the check of the log.
            return
        if missing:
            which = ", ".join(missing)
            text = f"The event at {raw.position} does not have the tags {which}, which follow from its payload."
            self._found.add([Damage(raw.position, text)])
