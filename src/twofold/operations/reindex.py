"""In charge of making old events found by tags their types have got since: explicitly, and recorded when done."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from twofold.app import App
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import InvalidMessage, WiringError
from twofold.write_store.inventory import record_reindexed, types_to_reindex
from twofold.write_store.port import Reindexable, WriteStore

PAGE = 1_000
"""Events that are read, and given their tags in one transaction, at a time."""

Progress = Callable[[Position, Position], None]
"""Hears the position reached and the position at which it will be done."""


class Reindexed(msgspec.Struct, frozen=True):
    """What was done: the kinds of tag each type had got, how many events were looked at, how many got tags."""

    types: dict[str, list[str]]
    looked_at: int
    retagged: int


async def reindex(app: App, write_store: WriteStore, on_progress: Progress | None = None) -> Reindexed:
    """Give every stored event the tags that the present code gives it, where its type has got new ones.

    `app` is not running, `write_store` is its write store, open for writing. Safe to break off and to repeat: what has
    its
    tags already is only read. WiringError where the store cannot do it, or where an event of the log cannot be tagged.
    """
    if not isinstance(write_store, Reindexable):
        raise WiringError(
            f"{type(write_store).__name__} cannot index its events anew: copy the log into a store that can."
        )
    types = await types_to_reindex(write_store, app.wiring)
    if not types:
        return Reindexed({}, 0, 0)
    query = EventQuery((QueryItem(tuple(types)),))
    looked_at = retagged = position = 0
    while True:
        page = await write_store.read(query, position, PAGE)
        missing = _missing_tags(app, page.events)
        if missing:
            await write_store.retag(missing)
        looked_at, retagged, position = looked_at + len(page.events), retagged + len(missing), page.upto
        if on_progress is not None:
            on_progress(position, page.head)
        if position >= page.head:
            break
    # Last, so that the app does not start on a log that is indexed by half.
    await record_reindexed(write_store, app.wiring, types)
    return Reindexed(types, looked_at, retagged)


def _missing_tags(app: App, events: Sequence[RecordedEvent]) -> Mapping[Position, Sequence[str]]:
    found: dict[Position, Sequence[str]] = {}
    for recorded in events:
        try:
            wanted = app.events.tags_of(recorded)
        except (InvalidMessage, msgspec.ValidationError) as error:
            raise WiringError(
                f"The '{recorded.type}' event at position {recorded.position} cannot be tagged: {error}. Give its "
                "Event(...) an upcaster that makes it fit, then reindex again."
            ) from error
        if missing := sorted(set(wanted) - set(recorded.tags)):
            found[recorded.position] = missing
    return found
