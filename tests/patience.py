"""Stores that give up soon, for as long as a test expects them to."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

_PARTS = ("_writing", "_reading", "_server", "_connection")
_CONNECTIONS = ("followers", "snapshots")


@contextmanager
def giving_up_after(seconds: float, store: Any) -> Iterator[None]:
    """Let a store retry its calls for so many seconds, instead of as long as it was opened for.

    Only a call that must fail needs a short time limit. What comes before and after it may take long on a busy machine.
    """
    parts = [getattr(store, name) for name in _PARTS if hasattr(store, name)]
    parts += [getattr(part, name) for part in parts for name in _CONNECTIONS if hasattr(part, name)]
    limits = [(part, name) for part in parts for name in ("patience", "_patience") if hasattr(part, name)]
    assert limits, f"{type(store).__name__} has no patience to be shortened"
    with ExitStack() as stack:
        for part, name in limits:
            stack.enter_context(patch.object(part, name, seconds))
        yield
