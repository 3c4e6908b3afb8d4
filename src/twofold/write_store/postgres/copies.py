"""Whole logs in PostgreSQL, read or replaced at once: moved, backed up, restored."""

from contextlib import AbstractAsyncContextManager

from twofold.domain.events import Position
from twofold.postgres_server import PostgresAddress
from twofold.write_store.log_content import ClosedLog, LogCopy, LogSnapshot
from twofold.write_store.port import LogIdentity
from twofold.write_store.postgres.content import closed_log, reading_snapshot
from twofold.write_store.postgres.replacing import replacing


class PostgresCopies:
    """The part of `PostgresWriteStore` that reads or replaces a whole log, over connections of its own."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address

    def snapshot(self) -> AbstractAsyncContextManager[LogSnapshot]:
        return reading_snapshot(self._address)

    def closed(self) -> AbstractAsyncContextManager[ClosedLog]:
        return closed_log(self._address)

    def replacing(self, identity: LogIdentity, expected: Position) -> AbstractAsyncContextManager[LogCopy]:
        return replacing(self._address, identity, expected)
