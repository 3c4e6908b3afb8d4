"""In charge of the arguments of a statement: each in its place, and arrays side by side for many rows."""

from collections.abc import Sequence
from typing import Any

Statement = tuple[str, list[Any]]
"""SQL and its arguments."""

Array = tuple[Any, str]
"""A column of many rows as one argument, and how it is written in SQL, with `$` where its number belongs."""


class Arguments:
    """Arguments of one statement."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def one(self, value: Any, type: str) -> str:
        """A single value, as it is written in SQL."""
        self.values.append(value)
        return f"${len(self.values)}::{type}"

    def unnested(self, arrays: Sequence[Array]) -> str:
        """Several arrays side by side, as one source of rows."""
        written: list[str] = []
        for value, sql in arrays:
            self.values.append(value)
            written.append(sql.replace("$", f"${len(self.values)}", 1))
        return f"unnest({', '.join(written)})"


def whole_numbers(values: Sequence[Any]) -> Array:
    """Whole numbers as an argument, and how it is written: as text, which the driver encodes four times as fast."""
    return f"{{{str(values)[1:-1].replace('None', 'null')}}}", "$::text::bigint[]"
