"""Copies of a whole read database as it is at one moment."""

from contextlib import closing

from twofold.errors import WiringError
from twofold.read_store.sqlite.connection import APPLICATION_ID
from twofold.sqlite_file import DiskErrors, copy_file, open_connection, open_immutable
from twofold.world import World


async def copy_read_models(path: str, copy: str, world: World) -> None:
    """Write a sealed copy of a read database to a new file, beside the process that writes to it.

    WiringError where the file is not a read database; Unavailable where it cannot be read.
    """
    with DiskErrors(path), closing(open_connection(path, readonly=True)) as connection:
        if connection.pragma("application_id") != APPLICATION_ID:
            raise WiringError(f"The file {path} is not a read database of Twofold. Name one with --read-store.")
        connection.execute("begin; select count(*) from sqlite_schema").fetchall()
        await copy_file(connection, copy, world, lambda done, total: None)


def refuse_damaged_copy(path: str) -> None:
    """WiringError where a file is not a copy of a read database, or is damaged."""
    with DiskErrors(path), closing(open_immutable(path)) as connection:
        sql = "select count(*) from sqlite_schema where type in ('view', 'trigger')"
        if connection.pragma("application_id") != APPLICATION_ID or connection.execute(sql).get:
            raise WiringError(f"{path} is not a copy of a read database of Twofold.")
        found = connection.execute("pragma quick_check(1)").get
        if found != "ok":
            raise WiringError(f"{path} is damaged: {found}")
