"""Differences between rows, and counts of them, as lines for people."""

from collections.abc import Iterable, Mapping
from typing import Any

import click
import msgspec

from twofold.cli.output import printable
from twofold.operations.row_differences import Difference

_LONGEST = 100


def print_differences(heading: str, counts: Mapping[str, int], sample: Iterable[Difference]) -> None:
    """Print a heading with the first count and all others that are not 0, then a few lines for each difference."""
    first = next(iter(counts))
    numbers = ", ".join(f"{count:,} {label}" for label, count in counts.items() if count or label == first)
    lines = [f"{heading}: {numbers}"]
    for row in sample:
        error = f": {row.error}" if row.error else ""
        lines.append(f"  {row.key} (position {row.before or '-'} -> {row.after or '-'}){error}")
        lines += [f"    {name}: {_text(field.before)} -> {_text(field.after)}" for name, field in row.fields.items()]
    click.echo("\n".join(map(printable, lines)))


def _text(value: Any | msgspec.UnsetType) -> str:
    text = "(missing)" if value is msgspec.UNSET else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
