"""In charge of how rows that differ are told to people."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from twofold.operations.compare import Comparison
from twofold.operations.looking import Difference

_LONGEST = 100


def count_of(comparison: Comparison) -> str:
    """One line of counts."""
    counts = [
        ("equal", comparison.equal),
        ("different", comparison.different),
        (f"only in generation {comparison.old}", comparison.only_old),
        (f"only in generation {comparison.new}", comparison.only_new),
        ("parked", comparison.parked),
        ("undecided", comparison.undecided),
    ]
    told = ", ".join(f"{count:,} {word}" for word, count in counts if count or word == "equal")
    return f"{comparison.rows:,} rows compared: {told}"


def sampled(sample: Iterable[Difference]) -> Iterator[str]:
    """A few lines for each row that differs."""
    for each in sample:
        error = f": {each.error}" if each.error else ""
        yield f"  {each.key} (of position {each.before or '-'}, then of {each.after or '-'}){error}"
        for name, field in each.fields.items():
            yield f"    {name}: {_shown(field.before)} -> {_shown(field.after)}"


def _shown(value: Any | msgspec.UnsetType) -> str:
    text = "not there" if value is msgspec.UNSET else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
