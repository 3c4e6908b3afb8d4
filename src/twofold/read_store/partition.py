"""Partitions: runs of slots, each with the part of a read model's keys that one follower folds."""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from twofold.domain.events import Position

SLOTS = 4096
"""A key is in one of so many slots, by the CRC-32 of its UTF-8 bytes. A partition is a run of slots."""


class Partition(msgspec.Struct, frozen=True, order=True):
    """The keys in slots `first` to `end` (exclusive) of a read model."""

    first: int = 0
    end: int = SLOTS

    @property
    def name(self) -> str:
        """As users and stores write it: `0-4096` is the whole."""
        return f"{self.first}-{self.end}"

    def holds(self, key: str) -> bool:
        """Whether a key is in this partition."""
        return self.first <= slot_of(key) < self.end

    def halves(self) -> tuple["Partition", "Partition"]:
        """This partition in two. ValueError where it is one slot, which cannot be split."""
        middle = (self.first + self.end) // 2
        if middle == self.first:
            raise ValueError(f"The partition {self.name} is a single slot.")
        return Partition(self.first, middle), Partition(middle, self.end)


WHOLE = Partition()

_EVENT = "parked:"
_EVENT_KEY = re.compile(r"parked:([1-9][0-9]{0,17})(?:/([0-9]{1,4}-[0-9]{1,4}))?", re.ASCII)


def slot_of(key: str) -> int:
    """The slot of a key, the same in every process and for ever. A parked event is in the first of its partition."""
    event = parked_event(key)
    return event.partition.first if event is not None else zlib.crc32(key.encode("utf-8", "surrogatepass")) % SLOTS


class ParkedEvent(NamedTuple):
    """An event that is parked by position for all keys of a partition: nobody can tell which of them it changes."""

    position: Position
    partition: Partition

    @property
    def key(self) -> str:
        """The name it is parked under, among the keys: `parked:42`, with the partition unless that is the whole."""
        return f"{_EVENT}{self.position}" + (f"/{self.partition.name}" if self.partition != WHOLE else "")


def parked_event(key: str) -> ParkedEvent | None:
    """The event that is parked under this name; None if this is the key of a row."""
    match = _EVENT_KEY.fullmatch(key) if key.startswith(_EVENT) else None
    if match is None:
        return None
    try:
        return ParkedEvent(int(match[1]), WHOLE if match[2] is None else partition_named(match[2]))
    except ValueError:
        return None


def shares(count: int) -> list[Partition]:
    """The whole in `count` nearly equal partitions, in order."""
    bounds = [SLOTS * n // count for n in range(count + 1)]
    return [Partition(first, end) for first, end in pairwise(bounds)]


def partition_named(name: str) -> Partition:
    """The partition of this `Partition.name`. ValueError for any other text."""
    first, dash, end = name.partition("-")
    if (
        not dash
        or not (name.isascii() and first.isdecimal() and end.isdecimal())
        or not 0 <= int(first) < int(end) <= SLOTS
    ):
        raise ValueError(f"'{name}' is not a partition. Write first-end, within 0-{SLOTS}.")
    return Partition(int(first), int(end))


def same_slots(old: Sequence[Partition], new: Sequence[Partition]) -> bool:
    """Whether two sets of partitions have the same slots, each slot once."""
    slots = [sorted(s for p in partitions for s in range(p.first, p.end)) for partitions in (old, new)]
    return bool(old) and slots[0] == slots[1] and len(set(slots[0])) == len(slots[0])
