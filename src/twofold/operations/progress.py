"""Callbacks that report the progress of an operation on a log."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with the amount done and the total: positions, or events."""

OnRows = Callable[[int], None]
"""Called with the number of rows done. How many there are is not known before."""


def no_rows(done: int) -> None:
    """Report nothing."""


def no_progress(done: int, total: int) -> None:
    """Report nothing."""
