"""Giving old events the tags that their types got later, recorded in the log when done."""

from collections.abc import Mapping, Sequence

import msgspec

from twofold.app import App
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import InvalidMessage, UnreadableEvent, WiringError
from twofold.operations.progress import OnProgress, no_progress
from twofold.write_store.inventory import record_reindexed, types_to_reindex
from twofold.write_store.port import Reindexable, WriteStore

PAGE = 1_000
"""Events that are read, and tagged in one transaction, at a time."""


class ReindexResult(msgspec.Struct, frozen=True):
    """The new kinds of tag of each type, how many events were read, and how many got tags."""

    types: dict[str, list[str]]
    looked_at: int
    retagged: int


async def reindex(app: App, write_store: WriteStore, on_progress: OnProgress = no_progress) -> ReindexResult:
    """Give every stored event the tags that the present code gives it, if its type got new ones.

    `app` is not running; `write_store` is its write store, open for writing. It is safe to interrupt and to repeat:
    events that have their tags are only read. WiringError if the store does not support it, or if an event of the log
    cannot be tagged.
    """
    if not isinstance(write_store, Reindexable):
        raise WiringError(f"{type(write_store).__name__} cannot reindex its events. Copy the log to a store that can.")
    types = await types_to_reindex(write_store, app.wiring)
    if not types:
        return ReindexResult({}, 0, 0)
    query = EventQuery((QueryItem(tuple(types)),))
    looked_at = retagged = position = 0
    while True:
        page = await write_store.read(query, position, PAGE)
        missing = _missing_tags(app, page.events)
        if missing:
            await write_store.retag(missing)
        looked_at, retagged, position = looked_at + len(page.events), retagged + len(missing), page.upto
        on_progress(position, page.head)
        if position >= page.head:
            break
    # This comes last, so that the app does not start with a log that is only partly indexed.
    await record_reindexed(write_store, app.wiring, types)
    return ReindexResult(types, looked_at, retagged)


def _missing_tags(app: App, events: Sequence[RecordedEvent]) -> Mapping[Position, Sequence[str]]:
    missing: dict[Position, Sequence[str]] = {}
    for recorded in events:
        try:
            tags = app.events.tags_of(recorded)
        except (InvalidMessage, UnreadableEvent) as error:
            raise WiringError(
                f"The '{recorded.type}' event at position {recorded.position} cannot be tagged: {error}. Give its "
                "Event(...) an upcaster that makes it fit, then reindex again."
            ) from error
        if new := sorted(set(tags) - set(recorded.tags)):
            missing[recorded.position] = new
    return missing
