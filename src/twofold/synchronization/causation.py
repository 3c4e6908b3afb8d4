"""Causation depth beyond its limit: what is raised, and a description that names the events that repeat."""

from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.write_store.port import WriteStore

_WINDOW = 1_000
_SHOWN = 6


class TooDeep(Exception):
    """A policy answers the event `recorded` with a command whose causation depth is beyond the limit."""

    def __init__(self, recorded: RecordedEvent, command: str, depth: int, limit: int) -> None:
        super().__init__(
            f"The event {recorded.type} at {recorded.position} would be answered with {command} at causation depth "
            f"{depth}, and max_causation_depth is {limit}."
        )
        self.recorded = recorded


async def described(error: TooDeep, log: WriteStore) -> str:
    """The error in sentences that say which events caused one another, the last ones or those that repeat."""
    chain = await _causes(error.recorded, log)
    # From the last event back to the one before it of the same type: that is what repeats.
    again = next((n for n, name in enumerate(chain[1:], 1) if name == chain[0]), None)
    if again is not None and again < _SHOWN:
        return f"{error} These events cause one another: {_arrows(chain[: again + 1])}."
    return f"{error} The last events that caused it: {_arrows(chain[:_SHOWN])}."


async def _causes(recorded: RecordedEvent, log: WriteStore) -> list[str]:
    """The types of an event and of those that caused it, the last one first, as far back as a page of the log goes."""
    page = await log.read(ALL_EVENTS, max(0, recorded.position - _WINDOW), _WINDOW)
    by_id = {event.id: event for event in page.events}
    chain, event = [recorded.type], by_id.get(recorded.metadata.causation_id or "")
    while event is not None:
        chain.append(event.type)
        event = by_id.get(event.metadata.causation_id or "")
    return chain


def _arrows(chain: list[str]) -> str:
    return " → ".join(reversed(chain))
