"""The stores of a process, opened as its roles need them: for writing, for reading, or as soon as they are there."""

from twofold.read_store.distant_read_store import DistantReadStore
from twofold.read_store.port import ReadStore
from twofold.roles import Roles
from twofold.settings import Settings
from twofold.stores import open_read_store, open_write_store, sqlite_path_of
from twofold.world import World
from twofold.write_store.distant_log import DistantLog
from twofold.write_store.port import WriteStore


async def open_log_for(roles: Roles, settings: Settings, world: World) -> WriteStore:
    """The write store as these roles need it. WiringError, and Unavailable where they cannot start without it.

    A process that decides commands needs it at once. For queries it is opened for reading, and may be away.
    """
    url = settings.write_store
    if roles.handle_commands:
        return await open_write_store(url, settings, world)
    in_file = sqlite_path_of(url) is not None
    read_only = in_file or "console" not in roles

    async def opening() -> WriteStore:
        return await open_write_store(url, settings, world, read_only=read_only)

    distant = DistantLog(opening, world, exclusive=in_file)
    await distant.late.try_first()
    return distant


async def open_read_models_for(roles: Roles, settings: Settings, world: World) -> ReadStore:
    """The read store as these roles need it. WiringError, and Unavailable where they cannot start without it.

    The role `sync` writes it and needs it at once. Others read it, and it may be away: those that only handle commands
    need it for nothing but `wait_for`. Operators can drop generations by a process with the role `console`, unless the
    read store is a file, which has one writer.
    """
    url = settings.read_store
    if "sync" in roles:
        return await open_read_store(url, world)
    read_only = "console" not in roles or sqlite_path_of(url) is not None

    async def opening() -> ReadStore:
        return await open_read_store(url, world, read_only=read_only)

    distant = DistantReadStore(opening, world)
    await distant.late.try_first()
    return distant
