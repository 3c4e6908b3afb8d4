"""The schema of a log in SQLite: its version is `pragma user_version`, and each migration is one transaction."""

import os
from collections.abc import Sequence
from contextlib import closing
from importlib.resources import files
from typing import Any

import apsw
import msgspec

from twofold.domain.envelope import Envelope, encode_envelope
from twofold.errors import WiringError
from twofold.sqlite_file import DiskErrors, claim, open_connection
from twofold.sqlite_lock import FileLock
from twofold.world import World
from twofold.write_store.chain import chain_start, content_digest, link
from twofold.write_store.checksums import command_checksum, numbers_checksum, row_checksum
from twofold.write_store.migration import MigrationResult, MigrationStep, migration_steps, new_log_name

STEPS: Sequence[MigrationStep] = migration_steps(files("twofold.write_store.sqlite").joinpath("migrations"))
_APPLICATION_ID = 0x54464C47
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_TABLES_OF_VERSION_1 = frozenset({"logs", "epochs", "event_types", "events", "event_tags", "commands", "rows"})


def migrate(path: str, world: World, *, dry_run: bool = False) -> MigrationResult:
    """Create the log's schema, or bring it up to date. Safe to repeat.

    WiringError where another process writes to the file, or where the file is not a log or is of a newer version.
    Unavailable where the file cannot be opened. A dry run changes nothing and may run beside a writer.
    """
    name = new_log_name("main", world)
    with DiskErrors(path):
        if not dry_run:
            lock = FileLock(path)
            try:
                with closing(open_connection(path)) as connection:
                    return apply_migrations(connection, path, name)
            finally:
                lock.release()
        if not os.path.exists(path):
            claimed = f"pragma application_id = {_APPLICATION_ID};\n"
            return MigrationResult([step.name for step in STEPS], claimed + _script(0, name))
        with closing(open_connection(path, readonly=True)) as connection:
            version = schema_version(connection, path)
            claimed = "" if version else f"pragma application_id = {_APPLICATION_ID};\n"
            return MigrationResult([step.name for step in STEPS[version:]], claimed + _script(version, name))


def apply_migrations(connection: apsw.Connection, path: str, name: str) -> MigrationResult:
    """Apply the missing steps, each in one transaction, and add the log `name` where the file holds none."""
    claim(connection, path, "log", _APPLICATION_ID)
    version = schema_version(connection, path)
    add_functions(connection)
    for step in STEPS[version:]:
        _in_one_transaction(connection, _versioned(step))
    if connection.pragma("user_version") == 0:
        # The log was written before schemas had a version.
        _in_one_transaction(connection, f"pragma user_version = {version};")
    _in_one_transaction(connection, _create_log(name))
    return MigrationResult([step.name for step in STEPS[version:]], _script(version, name))


def schema_version(connection: apsw.Connection, path: str) -> int:
    """The version of the schema in a file; 0 where there is none. WiringError where the code is too old for it."""
    version: int = connection.pragma("user_version")
    if version > len(STEPS):
        raise WiringError(
            f"The log {path} has schema version {version}, but this version of Twofold knows versions up to "
            f"{len(STEPS)}. Start the newer version of Twofold that wrote the log."
        )
    if version:
        return version
    tables = {table for (table,) in connection.execute("select name from sqlite_schema where type = 'table'")}
    if tables and (missing := _TABLES_OF_VERSION_1 - tables):
        raise WiringError(
            f"The file {path} has no schema version and lacks the tables of a log: {', '.join(sorted(missing))}. Name "
            "the file of a log, or restore it from a backup."
        )
    return 1 if tables else 0


def is_log(connection: apsw.Connection) -> bool:
    """Whether a file is marked as a log of Twofold."""
    return bool(connection.pragma("application_id") == _APPLICATION_ID)


def refuse_old_schema(connection: apsw.Connection, path: str) -> None:
    """WiringError where the schema of a file that is opened read-only is older or newer than this code."""
    version = schema_version(connection, path)
    if 0 < version < len(STEPS):
        raise WiringError(
            f"The log {path} has schema version {version}, and this version of Twofold reads version {len(STEPS)}. "
            f"Migrate it with `twofold migrate --write-store sqlite:///{path}`, or open it once for writing."
        )


def add_functions(connection: apsw.Connection) -> None:
    """Add the functions that the migrations call to a connection. The file does not keep them."""
    functions: list[Any] = [envelope_head, envelope_tags, chain_start, chain_link]
    functions += [command_checksum, row_checksum, numbers_checksum]
    for function in functions:
        connection.create_scalar_function(function.__name__, function, deterministic=True)


def envelope_head(envelope: bytes) -> bytes:
    """The head of an envelope that was stored before version 2."""
    return encode_envelope(_decode_envelope(envelope)).head


def envelope_tags(envelope: bytes) -> bytes:
    """The tags of an envelope that was stored before version 2."""
    return encode_envelope(_decode_envelope(envelope)).tags


def chain_link(chain: bytes, type: str, version: int, head: bytes, payload: bytes) -> bytes:
    """The chain at the position of an event."""
    return link(chain, content_digest(type, version, head, payload))


def _in_one_transaction(connection: apsw.Connection, sql: str) -> None:
    connection.execute("begin immediate")
    try:
        connection.execute(sql).fetchall()
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def _versioned(step: MigrationStep) -> str:
    return f"{step.sql}\npragma user_version = {step.number};\n"


def _script(version: int, name: str) -> str:
    """The SQL that brings a log from a version to the newest; empty where it has it."""
    steps = [f"begin immediate;\n{_versioned(step)}commit;\n" for step in STEPS[version:]]
    return "".join([*steps, _create_log(name)]) if steps else ""


def _create_log(name: str) -> str:
    quoted, start = apsw.format_sql_value(name), apsw.format_sql_value(chain_start(name))
    return (
        f"insert into logs (name, epoch, position, chain) select {quoted}, 1, 0, {start} "
        "where not exists (select 1 from logs);\n"
    )
