"""Decodes each event of a page once, for all followers that take the page together."""

from collections.abc import Callable
from typing import Any

from twofold.domain.events import Position, RecordedEvent


class DecodedPage:
    """The decoded events of the present page. Call `clear` before the next page."""

    def __init__(self, decode: Callable[[RecordedEvent], Any]) -> None:
        self._decode = decode
        self._events: dict[Position, Any] = {}

    def decode(self, recorded: RecordedEvent) -> Any:
        """The event in its present shape."""
        event = self._events.get(recorded.position)
        if event is None:
            event = self._events[recorded.position] = self._decode(recorded)
        return event

    def clear(self) -> None:
        """Forget the page."""
        self._events.clear()
