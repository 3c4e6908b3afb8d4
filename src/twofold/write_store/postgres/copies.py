"""Whole logs in PostgreSQL, read or written at once: moved, backed up, restored."""

from contextlib import AbstractAsyncContextManager

from twofold.domain.events import Position
from twofold.postgres_server import PostgresAddress
from twofold.write_store.port import EmptyLog, LogContent, LogIdentity, LogSnapshot
from twofold.write_store.postgres.moving import importing, reading_content
from twofold.write_store.postgres.replacing import replacing
from twofold.write_store.postgres.snapshot import reading_snapshot


class PostgresCopies:
    """The part of `PostgresWriteStore` that reads or writes a whole log, over connections of its own."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address

    def content(self) -> AbstractAsyncContextManager[LogContent]:
        return reading_content(self._address)

    def importing(self, identity: LogIdentity, head: Position, chain: bytes) -> AbstractAsyncContextManager[EmptyLog]:
        return importing(self._address, identity, head, chain)

    def snapshot(self) -> AbstractAsyncContextManager[LogSnapshot]:
        return reading_snapshot(self._address)

    def replacing(
        self, identity: LogIdentity, head: Position, chain: bytes, expected: Position
    ) -> AbstractAsyncContextManager[EmptyLog]:
        return replacing(self._address, identity, head, chain, expected)
