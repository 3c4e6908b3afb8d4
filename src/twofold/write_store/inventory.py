"""In charge of holding the log against the code at start: no stored event type unlisted, no tag unindexed."""

from collections.abc import Mapping

import msgspec

from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Metadata
from twofold.domain.module import Wiring
from twofold.errors import Conflict, WiringError
from twofold.write_store.port import Append, Row, RowWrite, WriteStore

_SPACE = "event-types"
_BY = Metadata(0, "inventory", "inventory")


async def check_log(store: WriteStore, wiring: Wiring) -> None:
    """Compare what was listed when the log was written with what is listed now, and remember the latter.

    WiringError, with the cure, where the log holds events of a type no module lists, or where a type has got a tag its
    older events are not indexed by.
    """
    known: Mapping[str, Row] = await store.rows(_SPACE)
    changes: list[RowWrite] = []
    for name in known.keys() - wiring.events.keys():
        if await _is_stored(store, name):
            raise WiringError(
                f"The log holds '{name}' events, but no module lists an event of that name. If the class was renamed, "
                f"list it as Event(TheClass, name='{name}')."
            )
        changes.append(RowWrite(_SPACE, name, None, known[name].version))
    for name, event in wiring.events.items():
        kinds = sorted(wiring.readers[event.type].kinds)
        row = known.get(name)
        before = None if row is None else msgspec.json.decode(row.value, type=list[str])
        new = [] if before is None else [kind for kind in kinds if kind not in before]
        if new and await _is_stored(store, name):
            raise WiringError(
                f"{event.type.__name__} has got the tag '{new[0]}', but the '{name}' events in the log are not found "
                f"by it, so rules would silently miss them. Index them anew: `twofold reindex`."
            )
        if before != kinds:
            changes.append(RowWrite(_SPACE, name, msgspec.json.encode(kinds), row.version if row else 0))
    if changes:
        (outcome,) = await store.append([Append(_BY, rows=tuple(changes))])
        if isinstance(outcome, Conflict):
            await check_log(store, wiring)


async def _is_stored(store: WriteStore, name: str) -> bool:
    return bool((await store.read(EventQuery((QueryItem((name,)),)), limit=1)).events)
