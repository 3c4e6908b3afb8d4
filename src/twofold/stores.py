"""Opening the store that a URL names. A driver is imported only when its scheme is used."""

import os
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from twofold.errors import WiringError
from twofold.read_store.port import ReadStore
from twofold.settings import Settings
from twofold.world import World
from twofold.write_store.log_content import LogCopy, SealedLog
from twofold.write_store.migration import MigrationResult
from twofold.write_store.port import LogIdentity, WriteStore

_POSTGRESQL = ("postgresql", "postgres")
_SCRATCH_CACHE_BYTES = 8_388_608
_SQLITE = "sqlite:///relative/path.db, sqlite:////absolute/path.db"


async def open_write_store(url: str, settings: Settings, world: World, *, read_only: bool = False) -> WriteStore:
    """The write store a URL names. WiringError for an unknown scheme; Unavailable where it cannot be reached."""
    scheme = _scheme(url)
    if scheme == "memory":
        memory: WriteStore = _adapter("twofold.write_store.memory").MemoryWriteStore()
        return memory
    days = settings.command_retention_days
    if scheme in _POSTGRESQL:
        postgres = _adapter("twofold.write_store.postgres").PostgresWriteStore
        log: WriteStore = await postgres.open(
            url, read_only=read_only, retention_days=days, world=world, check_reads=settings.check_reads
        )
        return log
    path = _sqlite_path(url, f"memory:, {_SQLITE} or postgresql://user@host/database")
    sqlite = _adapter("twofold.write_store.sqlite").SqliteWriteStore
    file: WriteStore = sqlite(
        path, read_only=read_only, retention_days=days, world=world, check_reads=settings.check_reads
    )
    return file


async def migrate_write_store(
    url: str, world: World, *, role: str | None = None, dry_run: bool = False
) -> MigrationResult:
    """Create the schema of a log or bring it up to date: see the adapter's `migrate`. WiringError where it has none."""
    scheme = _scheme(url)
    if scheme == "memory":
        raise WiringError("A log in memory needs no migration. Name a log in SQLite or PostgreSQL with --write-store.")
    if scheme in _POSTGRESQL:
        postgres = _adapter("twofold.write_store.postgres.migrate")
        migrated: MigrationResult = await postgres.migrate(url, world, role=role, dry_run=dry_run)
        return migrated
    path = _sqlite_path(url, f"{_SQLITE} or postgresql://user@host/database")
    if role is not None:
        raise WiringError(f"{path} is a SQLite file, and SQLite has no roles. Leave out --role.")
    result: MigrationResult = _adapter("twofold.write_store.sqlite.migrate").migrate(path, world, dry_run=dry_run)
    return result


_READ_STORES = {
    "postgresql": ("postgres", "PostgresReadStore"),
    "postgres": ("postgres", "PostgresReadStore"),
    "mongodb": ("mongodb", "MongoReadStore"),
    "mongodb+srv": ("mongodb", "MongoReadStore"),
    "cassandra": ("cassandra", "CassandraReadStore"),
}
"""Read stores on a server, by scheme: the module of the adapter, and its class."""


async def open_read_store(url: str, world: World, *, read_only: bool = False) -> ReadStore:
    """The read store a URL names. WiringError for an unknown scheme; Unavailable where it cannot be reached."""
    scheme = _scheme(url)
    if scheme == "memory":
        memory: ReadStore = _adapter("twofold.read_store.memory").MemoryReadStore()
        return memory
    if scheme in _READ_STORES:
        module, name = _READ_STORES[scheme]
        adapter = getattr(_adapter(f"twofold.read_store.{module}"), name)
        server: ReadStore = await adapter.open(url, read_only=read_only, world=world)
        return server
    known = f"memory:, {_SQLITE}, postgresql://…, mongodb://… or cassandra://…"
    file: ReadStore = _adapter("twofold.read_store.sqlite").SqliteReadStore(
        _sqlite_path(url, known), read_only=read_only, world=world
    )
    return file


def open_scratch_read_store(path: str, world: World) -> ReadStore:
    """A read store in a temporary file, of which it keeps little in memory."""
    file: ReadStore = _adapter("twofold.read_store.sqlite").SqliteReadStore(
        path, cache_bytes=_SCRATCH_CACHE_BYTES, world=world
    )
    return file


def open_sealed_log(path: str) -> SealedLog:
    """A log file that nothing writes any more. WiringError where it is not one; Unavailable where it cannot be read."""
    log: SealedLog = _adapter("twofold.write_store.sqlite.sealed_file").SealedLog(path)
    return log


def up_to_date_log(path: str, folder: str) -> str:
    """The path of a sealed log file with the present schema: the same, or that of a migrated copy in a folder.

    WiringError where the file is not a log, or its schema is too new or too old.
    """
    present: str = _adapter("twofold.write_store.sqlite.sealed_file").up_to_date(path, folder)
    return present


def create_sealed_log(
    path: str, identity: LogIdentity, after: int, chain: bytes, world: World
) -> AbstractAsyncContextManager[LogCopy]:
    """A new log file to be filled with the events after a position, where the log has `chain`.

    It is complete, on disk and sealed when the context ends without error.
    """
    log: AbstractAsyncContextManager[LogCopy] = _adapter("twofold.write_store.sqlite.sealed_file").sealed(
        path, identity, after, chain, world
    )
    return log


def open_log_copy(
    url: str, identity: LogIdentity | None, place: str, world: World
) -> AbstractAsyncContextManager[LogCopy]:
    """The copy that a URL names of the log `identity` at a place: begun where nothing is, else continued.

    With the identity None it is only continued. WiringError where anything else is there, or another process has it.
    """
    copy: AbstractAsyncContextManager[LogCopy]
    scheme = _scheme(url)
    if scheme == "memory":
        raise WiringError("A log is not copied into memory: it would be lost when the process ends.")
    if scheme in _POSTGRESQL:
        copy = _adapter("twofold.write_store.postgres.copying").opened_copy(url, identity, place)
    else:
        path = _sqlite_path(url, f"{_SQLITE} or postgresql://user@host/database")
        copy = _adapter("twofold.write_store.sqlite.copying").opened_copy(path, identity, place, world)
    return copy


async def copy_read_models(path: str, copy: str, world: World) -> None:
    """Write a sealed copy of a read database, as it is at one moment, to a new file.

    WiringError where the file is not one; Unavailable where it cannot be read.
    """
    await _adapter("twofold.read_store.sqlite.snapshot_copy").copy_read_models(path, copy, world)


def refuse_damaged_read_models(path: str) -> None:
    """WiringError where a file is not a copy of a read database, or is damaged."""
    _adapter("twofold.read_store.sqlite.snapshot_copy").refuse_damaged_copy(path)


def sqlite_path_of(url: str) -> str | None:
    """The path of the file that a URL names; None where it names no SQLite file. WiringError for a malformed one."""
    return _sqlite_path(url, _SQLITE) if _scheme(url) == "sqlite" else None


def announce_address(url: str, address: str) -> None:
    """Let other processes know where this one answers, which writes to the SQLite file that a URL names."""
    if _scheme(url) == "sqlite":
        _adapter("twofold.sqlite_lock").announce_address(_sqlite_path(url, _SQLITE), address)


def announced_address(url: str) -> str | None:
    """Where the process answers that writes to the SQLite file that a URL names, if it has announced that."""
    if _scheme(url) != "sqlite":
        return None
    address: str | None = _adapter("twofold.sqlite_lock").announced_address(_sqlite_path(url, _SQLITE))
    return address


def shown(url: str) -> str:
    """The place of a URL's data as shown to people, without a password."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return "in memory, lost when the process ends"
    if parts.scheme == "sqlite":
        return os.path.abspath(url[len("sqlite:///") :])
    return without_password(url)


def place_of(url: str) -> str:
    """The URL of a store as other processes can use it, without its password."""
    path = sqlite_path_of(url)
    return without_password(url) if path is None else f"sqlite:///{os.path.abspath(path)}"


def without_password(url: str) -> str:
    """The URL without its password, so that it can be shown."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "password"])
    return (
        urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}{at}{hosts}", query=query)) if at or query else url
    )


def _scheme(url: str) -> str:
    """The part before the colon. The rest may be malformed: the adapter reports it without showing a password."""
    return url.partition(":")[0].lower()


def _adapter(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "twofold":
            raise
        extra = name.split(".")[2]
        raise WiringError(
            f"A store in {extra} needs the package '{error.name}'. Install it: pip install 'twofold[{extra}]'."
        ) from error


def _sqlite_path(url: str, known: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.scheme == "sqlite" and not parts.netloc and path:
        return os.path.expanduser(path)
    raise WiringError(f"There is no store for the URL {shown(url)!r}. Use {known}.")
