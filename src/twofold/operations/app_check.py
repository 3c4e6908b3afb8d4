"""The check of an app against its stores before it is deployed. Nothing is written."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from twofold.app import App
from twofold.domain.event_query import NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import RecordedEvent
from twofold.errors import InvalidMessage, TwofoldError, Unavailable, UnreadableEvent, WiringError
from twofold.stores import open_read_store, open_write_store, shown, sqlite_path_of
from twofold.synchronization.cluster_state import read_cluster_state
from twofold.write_store.inventory import new_listings
from twofold.write_store.port import WriteStore

SAMPLE = 200
"""Events of each type that are read: the first ones, whose versions are the oldest. Of the whole log the last ones."""

Outcome = Literal["ok", "warning", "problem", "unavailable"]


class Finding(msgspec.Struct, frozen=True):
    """What one check found. A `warning` needs no cure before the app starts; `unavailable`: it could not be checked."""

    check: str
    outcome: Outcome
    message: str


async def check_stores(app: App) -> list[Finding]:
    """Both stores: whether they can be read, whether this code reads the log, and what it will build at its start.

    Also whether the roles of the process can work on such stores.
    """
    try:
        app.roles.check_stores(app.settings.write_store, app.settings.read_store)
    except WiringError as error:
        return [Finding("roles", "problem", str(error))]
    findings = [each async for each in _of_log(app)]
    return [*findings, *[each async for each in _of_read_models(app)]]


async def _of_log(app: App) -> AsyncIterator[Finding]:
    url = app.settings.write_store
    if (new := _not_there(url)) is not None:
        yield Finding("write_store", "warning", new)
        return

    async def look() -> list[Finding]:
        write_store = await open_write_store(url, app.settings, app.world, read_only=True)
        try:
            head = (await write_store.read(NO_EVENTS)).head
            found = [Finding("write_store", "ok", f"{shown(url)} can be read, up to position {head}.")]
            return [*found, await _listed(app, write_store), await _read(app, write_store, head)]
        finally:
            await write_store.close()

    for finding in await _guarded("write_store", look):
        yield finding


async def _of_read_models(app: App) -> AsyncIterator[Finding]:
    if not app.models:
        return
    url = app.settings.read_store
    if (new := _not_there(url)) is not None:
        yield Finding("read_store", "warning", f"{new} The read models are built then.")
        return

    async def look() -> list[Finding]:
        read_store = await open_read_store(url, app.world, read_only=True)
        try:
            checkpoints = await read_store.checkpoints()
            identity = read_store.identity
        finally:
            await read_store.close()
        found = [Finding("read_store", "ok", f"{shown(url)} can be read.")]
        if _not_there(app.settings.write_store) is not None:
            return found
        write_store = await open_write_store(app.settings.write_store, app.settings, app.world, read_only=True)
        try:
            cluster = await read_cluster_state(write_store, identity)
        finally:
            await write_store.close()
        built = {each.name for each in checkpoints}
        for name in sorted(app.models):
            version = app.wiring.projections[name].version
            versions = {build.version for build in cluster.generations(name).record.builds.values()}
            if name not in built or (versions and version not in versions):
                text = f"'{name}' version {version} is not built yet: the app builds it after its start."
                found.append(Finding("projections", "warning", text))
        return found

    for finding in await _guarded("read_store", look):
        yield finding


async def _listed(app: App, write_store: WriteStore) -> Finding:
    """Whether the log has types or tags that this code does not list."""
    await new_listings(write_store, app.wiring)
    return Finding("event_types", "ok", f"The log has no type beside the {len(app.wiring.events)} that the code lists.")


async def _read(app: App, write_store: WriteStore, head: int) -> Finding:
    """Whether the code reads the first events of each type, and the last ones of the log."""
    queries = [(EventQuery((QueryItem((name,)),)), 0) for name in app.wiring.events]
    queries.append((EventQuery((QueryItem(tuple(app.wiring.events)),)), max(0, head - SAMPLE)))
    count = 0
    for query, after in queries if app.wiring.events else []:
        for recorded in (await write_store.read(query, after, SAMPLE)).events:
            if (problem := _misfit(app, recorded)) is not None:
                return Finding("events", "problem", problem)
            count += 1
    text = f"The code reads {count:,} sampled events. `twofold verify --decode-all` reads all."
    return Finding("events", "ok", text)


def _misfit(app: App, recorded: RecordedEvent) -> str | None:
    where = f"the event at {recorded.position} ('{recorded.type}' version {recorded.version})"
    try:
        missing = set(app.events.tags_of(recorded)) - set(recorded.tags)
    except (Unavailable, UnreadableEvent, InvalidMessage) as error:
        return f"The code cannot read {where}: {error}"
    return f"{where.capitalize()} lacks the tags {', '.join(sorted(missing))}." if missing else None


async def _guarded(check: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        return await look()
    except Unavailable as error:
        return [Finding(check, "unavailable", str(error))]
    except TwofoldError as error:
        return [Finding(check, "problem", str(error))]


def _not_there(url: str) -> str | None:
    """That a store is made when the app starts, if it is not there yet."""
    if url.startswith("memory:"):
        return "It is in memory: nothing is kept when the process ends."
    path = sqlite_path_of(url)
    if path is not None and not Path(path).exists():
        return f"{shown(url)} is not there yet: the app creates it when it starts."
    return None
