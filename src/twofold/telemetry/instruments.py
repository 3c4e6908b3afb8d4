"""Counters and histograms of one process. Their series are known at the start: what callers send makes no new one."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple

Labels = tuple[str, ...]
"""The values of the labels of one series, in the order of the label names."""

OTHER = "other"
"""The value of a label for all values that are not known at the start."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of durations."""
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the buckets of batch sizes."""

Kind = Literal["counter", "gauge", "histogram"]


class Buckets(NamedTuple):
    """The values that a histogram has seen: how many are in each bucket (the last one has no bound), and their sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


class Family(NamedTuple):
    """A metric with all its series, at one moment. The name of a counter ends in `_total`, in every export."""

    name: str
    kind: Kind
    help: str
    labels: Sequence[str]
    series: "Mapping[Labels, float] | Mapping[Labels, Buckets]"


class Counter:
    """Counts events by labels. `values` are all values of each label; others count as `other`.

    All series are there from the start, at 0; with `sparse` those that have been counted.
    """

    def __init__(self, name: str, help: str, values: Mapping[str, Iterable[str]], *, sparse: bool = False) -> None:
        self.name = name
        self.help = help
        self._labels = tuple(values)
        self._known = [dict.fromkeys(each) for each in values.values()]
        self._counts: dict[Labels, int] = {} if sparse else dict.fromkeys(product(*self._known), 0)

    def add(self, *labels: str) -> None:
        """Count one more. A value that was not given at the start counts as `other`; not at all where that was not."""
        counts = self._counts
        if labels not in counts:
            labels = tuple(value if value in known else OTHER for value, known in zip(labels, self._known, strict=True))
            if not all(value in known for value, known in zip(labels, self._known, strict=True)):
                return
        counts[labels] = counts.get(labels, 0) + 1

    def family(self) -> Family:
        """All series now."""
        return Family(self.name, "counter", self.help, self._labels, dict(self._counts))


class _Observed:
    """One series of a histogram."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0


class Histogram:
    """Distributes values over buckets, by labels as in `Counter`. A value on a bound belongs to the bucket below it."""

    def __init__(
        self,
        name: str,
        help: str,
        bounds: Sequence[float] = SECONDS,
        values: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.name = name
        self.help = help
        values = values or {}
        self._labels = tuple(values)
        self._bounds = tuple(bounds)
        series = product(*(tuple(each) for each in values.values()))
        self._series = {labels: _Observed(bounds) for labels in series}

    def observe(self, value: float, *labels: str) -> None:
        """Add a value. Nothing is noted for labels that were not given at the start."""
        series = self._series.get(labels)
        if series is not None:
            series.counts[bisect_left(self._bounds, value)] += 1
            series.total += value

    def family(self) -> Family:
        """All series now."""
        series = {
            labels: Buckets(self._bounds, tuple(each.counts), each.total) for labels, each in self._series.items()
        }
        return Family(self.name, "histogram", self.help, self._labels, series)
