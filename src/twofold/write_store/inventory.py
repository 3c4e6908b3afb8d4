"""The event types and tags of the log, compared with the code at start."""

from collections.abc import Iterable, Mapping

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.module import Wiring
from twofold.errors import Conflict, WiringError
from twofold.write_store.port import Append, LogRow, RowWrite, WriteStore

_SPACE = "event-types"
_BY = Metadata(0, "inventory", "inventory")


async def check_log(write_store: WriteStore, wiring: Wiring) -> None:
    """Compare the event types and tags that were listed before with those that are listed now, and store these.

    WiringError as `new_listings` raises it.
    """
    changes = await new_listings(write_store, wiring)
    if changes:
        (outcome,) = await write_store.append([Append(_BY, rows=tuple(changes))])
        if isinstance(outcome, Conflict):
            await check_log(write_store, wiring)


async def new_listings(write_store: WriteStore, wiring: Wiring) -> list[RowWrite]:
    """What is to be written so that the log lists the event types and tags of this code.

    WiringError, with the cure, where the log holds events of a type that no module lists, or where a type has a new tag
    by which its older events are not indexed.
    """
    known: Mapping[str, LogRow] = await write_store.rows(_SPACE)
    changes: list[RowWrite] = []
    for name in known.keys() - wiring.events.keys():
        if await _is_stored(write_store, name):
            raise WiringError(
                f"The log holds '{name}' events, but no module lists an event of that name. If the class was renamed, "
                f"list it as Event(TheClass, name='{name}')."
            )
        changes.append(RowWrite(_SPACE, name, None, known[name].version))
    for name, new in (await types_to_reindex(write_store, wiring)).items():
        raise WiringError(
            f"{wiring.events[name].type.__name__} has the new tag '{new[0]}', but the '{name}' events in the log are "
            f"not indexed by it, so decisions would miss them. Run `twofold reindex`."
        )
    for name in wiring.events:
        kinds = _kinds(wiring, name)
        row = known.get(name)
        if row is None or _listed(row) != kinds:
            changes.append(_listing(name, kinds, row))
    return changes


async def types_to_reindex(write_store: WriteStore, wiring: Wiring) -> dict[str, list[str]]:
    """The stored types with tags by which their older events are not indexed: each name with the new kinds."""
    known = await write_store.rows(_SPACE)
    types: dict[str, list[str]] = {}
    for name in wiring.events.keys() & known.keys():
        before = _listed(known[name])
        new = [kind for kind in _kinds(wiring, name) if kind not in before]
        if new and await _is_stored(write_store, name):
            types[name] = new
    return dict(sorted(types.items()))


async def record_reindexed(write_store: WriteStore, wiring: Wiring, names: Iterable[str]) -> None:
    """Store that all events of these types are indexed by their present tags. Conflict if another process was first."""
    known = await write_store.rows(_SPACE)
    rows = tuple(_listing(name, _kinds(wiring, name), known.get(name)) for name in names)
    (outcome,) = await write_store.append([Append(_BY, rows=rows)])
    if isinstance(outcome, Conflict):
        raise outcome


def _kinds(wiring: Wiring, name: str) -> list[str]:
    return sorted(wiring.readers[wiring.events[name].type].kinds)


def _listed(row: LogRow) -> list[str]:
    return msgspec.json.decode(row.value, type=list[str])


def _listing(name: str, kinds: list[str], row: LogRow | None) -> RowWrite:
    return RowWrite(_SPACE, name, msgspec.json.encode(kinds), row.version if row else 0)


async def _is_stored(write_store: WriteStore, name: str) -> bool:
    return bool((await write_store.read(EventQuery((QueryItem((name,)),)), limit=1)).events)
