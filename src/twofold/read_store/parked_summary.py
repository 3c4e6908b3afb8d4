"""What an answer says about parked keys: how many there are, the first of them, and the events among them.

A follower knows the parked keys of its partition. It saves their summary with the checkpoint, so that an answer reads
the same amount however many keys are parked.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from heapq import nsmallest

import msgspec

from twofold.read_store.partition import ParkedEvent, Partition, parked_event

MAX_PARKED_SHOWN = 20
"""How many parked keys are named where all of them are counted."""

_SortKey = tuple[bool, str]


class ParkedSummary(msgspec.Struct, frozen=True):
    """The parked keys of some partitions in short: their number, and the first of them in order, events first.

    `events` names the earliest parked event of each partition that events are parked for: what lacks a later one lacks
    nothing more.
    """

    count: int = 0
    first: tuple[str, ...] = ()
    events: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether `first` names all parked keys."""
        return self.count == len(self.first)


NOTHING_PARKED = ParkedSummary()

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ParkedSummary).decode


def stored_summary(summary: ParkedSummary) -> str:
    """A summary as text for a column: empty if nothing is parked."""
    return _encode(summary).decode() if summary.count else ""


def summary_stored(text: str | None) -> ParkedSummary:
    """The summary of which `stored_summary` made this text."""
    return _decode(text) if text else NOTHING_PARKED


class ParkedNames:
    """The names under which keys and events are parked in one partition. Immutable; each change is cheap."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._ordered = sorted(set(map(_sort_key, names)))

    def changed(self, changes: Mapping[str, object | None]) -> "ParkedNames":
        """The names after these changes, by name (None: not parked any more). The same object if none comes or goes."""
        ordered: list[_SortKey] | None = None
        for name, parked in changes.items():
            key = _sort_key(name)
            index, known = self._find(self._ordered if ordered is None else ordered, key)
            if known == (parked is not None):
                continue
            if ordered is None:
                ordered = self._ordered.copy()
            if known:
                del ordered[index]
            else:
                ordered.insert(index, key)
        if ordered is None:
            return self
        names = ParkedNames()
        names._ordered = ordered
        return names

    @staticmethod
    def _find(ordered: list[_SortKey], key: _SortKey) -> tuple[int, bool]:
        """Where a name is or belongs, and whether it is there."""
        index = bisect_left(ordered, key)
        return index, index < len(ordered) and ordered[index] == key

    @property
    def summary(self) -> ParkedSummary:
        """What is saved of the names."""
        first = tuple(name for _, name in self._ordered[:MAX_PARKED_SHOWN])
        events = self._ordered[: bisect_left(self._ordered, (True, ""))]
        return ParkedSummary(len(self._ordered), first, _earliest(name for _, name in events))


def summary_of(names: Iterable[str]) -> ParkedSummary:
    """The summary of parked keys that are all known."""
    return ParkedNames(names).summary


def merged_summary(summaries: Iterable[ParkedSummary]) -> ParkedSummary:
    """The summary of several partitions or read models.

    A key that is parked in several read models is counted once if all keys are named, and once for each otherwise.
    """
    parts = [summary for summary in summaries if summary.count]
    if len(parts) < 2:
        return parts[0] if parts else NOTHING_PARKED
    names = {name for part in parts for name in part.first}
    count = len(names) if all(part.complete for part in parts) else sum(part.count for part in parts)
    first = nsmallest(MAX_PARKED_SHOWN, map(_sort_key, names))
    return ParkedSummary(count, tuple(name for _, name in first), _earliest(e for part in parts for e in part.events))


def summaries_by_partition(names: Iterable[str], partitions: Iterable[Partition]) -> dict[Partition, ParkedSummary]:
    """The summary of each of these partitions, given what is parked in any of them."""
    known = list(names)
    return {each: summary_of(name for name in known if each.holds(name)) for each in partitions}


def _earliest(names: Iterable[str]) -> tuple[str, ...]:
    earliest: dict[Partition, ParkedEvent] = {}
    for name in names:
        event = parked_event(name)
        if event is not None and (
            event.partition not in earliest or event.position < earliest[event.partition].position
        ):
            earliest[event.partition] = event
    return tuple(sorted(event.key for event in earliest.values()))


def _sort_key(name: str) -> _SortKey:
    """Events come first: every row may lack them."""
    return parked_event(name) is None, name
