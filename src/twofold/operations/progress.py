"""Callbacks that report the progress of an operation on a log."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with the amount done and the total: positions, or events."""


def no_progress(done: int, total: int) -> None:
    """Report nothing."""
