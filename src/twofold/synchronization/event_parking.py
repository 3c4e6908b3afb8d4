"""Events that are parked by position: which there are, and how one is folded once it can be."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.read_store.partition import WHOLE, ParkedEvent, Partition, parked_event
from twofold.read_store.port import Parked, RawRow, ReadModel, ReadStore, VersionedRow
from twofold.synchronization.folding import FoldFailed
from twofold.synchronization.follower import Skips
from twofold.synchronization.key_event_reader import KeyEventReader
from twofold.synchronization.key_repair import refold


class LateEvent(NamedTuple):
    """An event folded after later ones: its keys, the rows it changes, and the keys that cannot be folded with it.

    Each of those with the number of its events that wait.
    """

    keys: list[str]
    rows: dict[str, VersionedRow]
    failed: dict[str, tuple[FoldFailed, int]]


def events_among(keys: Iterable[str]) -> frozenset[ParkedEvent]:
    """The parked events among keys."""
    return frozenset(event for key in keys if (event := parked_event(key)) is not None)


def events_skipped(skips: Skips) -> frozenset[ParkedEvent]:
    """The events that are skipped by position: for all keys, whatever partition they were parked in."""
    return frozenset(ParkedEvent(event.position, WHOLE) for event in events_among(key for key, _ in skips))


def divided(parked: Iterable[Parked], parts: Sequence[Partition]) -> dict[str, Parked | None]:
    """What to save, so that each part of a partition has its own record of the events that are parked."""
    changes: dict[str, Parked | None] = {}
    for each in parked:
        event = parked_event(each.key)
        if event is None:
            continue
        for part in parts:
            first, end = max(event.partition.first, part.first), min(event.partition.end, part.end)
            if first < end and (own := ParkedEvent(event.position, Partition(first, end))) != event:
                changes |= {each.key: None, own.key: replace(each, key=own.key)}
    return changes


async def fold_late(
    projection: BoundProjection,
    events: KeyEventReader,
    stores: tuple[ReadStore, ReadModel],
    event: ParkedEvent,
    at: Position,
    skips: Skips,
) -> LateEvent:
    """Fold the keys of a parked event from their first events up to a position, with this event.

    Raises what the event fails with, or InvalidMessage if a key cannot be folded again.
    """
    why, keys = await events.keys_at(event.position)
    if why is not None:
        raise why
    read_store, model = stores
    own = [key for key in keys if event.partition.holds(key)]
    # Inspected, not loaded: a row that cannot be read is replaced.
    stored: Mapping[str, RawRow] = await read_store.inspect(model, own)
    including, late = events.including(event), LateEvent(own, {}, {})
    for key in own:
        row, failed, waiting = await refold(projection, including, key, stored.get(key, RawRow(None, 0)), at, skips)
        late.rows.update({} if row is None else {key: row})
        late.failed.update({} if failed is None else {key: (failed, waiting)})
    return late
