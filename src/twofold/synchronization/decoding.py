"""In charge of decoding each event of a page once, for all followers that take it together."""

from collections.abc import Callable
from typing import Any

from twofold.domain.events import Position, RecordedEvent


def memo(decode: Callable[[RecordedEvent], Any]) -> tuple[Callable[[RecordedEvent], Any], Callable[[], None]]:
    """A `decode` that remembers what it decoded, for followers that take a page together; and what makes it forget."""
    known: dict[Position, Any] = {}

    def decoded(recorded: RecordedEvent) -> Any:
        event = known.get(recorded.position)
        if event is None:
            event = known[recorded.position] = decode(recorded)
        return event

    return decoded, known.clear
