"""The log in PostgreSQL: durable, and written by any number of processes at once."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import asyncpg

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position
from twofold.errors import TwofoldError, Unavailable
from twofold.postgres_server import LOST, PostgresAddress
from twofold.uncancellable import UncancellableTasks
from twofold.world import RealWorld, World
from twofold.write_store.damage import unlinked
from twofold.write_store.port import PAGE_BYTES, Append, Appended, LogRow, Outcome, Slice
from twofold.write_store.postgres import functions, reading
from twofold.write_store.postgres.address import address_of
from twofold.write_store.postgres.batch import Call, Known, types_of
from twofold.write_store.postgres.connections import Reservation
from twofold.write_store.postgres.early_check import checked_early
from twofold.write_store.postgres.history import PostgresHistory
from twofold.write_store.postgres.news import News, channel
from twofold.write_store.postgres.raw_log import PostgresRawLog
from twofold.write_store.postgres.raw_state import PostgresRawState
from twofold.write_store.postgres.refused import AnotherEpoch
from twofold.write_store.postgres.retagging import retag_arguments
from twofold.write_store.postgres.retention import CommandRetention
from twofold.write_store.reserving import DecideReserved

log = logging.getLogger(__name__)

DAY = 86_400_000_000
_CHANGED_MEANWHILE = "TF006"


class PostgresWriteStore(PostgresHistory):
    """A write store in one schema of a PostgreSQL database, which any number of processes write at once.

    A batch is one call of one SQL function, which commits by itself. If the connection is cut between commit and
    answer, the batch is sent again under the same command ids, and the server answers with the first outcome.
    """

    def __init__(
        self, address: PostgresAddress, *, read_only: bool, retention_days: float, patience: float, world: World
    ) -> None:
        news = News(address, world, self._read_head)
        super().__init__(address, world, news, read_only=read_only, patience=patience)
        self.exclusive = False
        self._check_reads = False
        self.retention = int(retention_days * DAY)
        self._tasks = UncancellableTasks(f"The log at {address.shown} is closed.")
        self._retention = CommandRetention(world, int(retention_days * DAY), partial(self._call, self._writing))
        self._instance = ""
        self._calls = 0

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        read_only: bool = False,
        retention_days: float = 7.0,
        patience: float = 10.0,
        world: World | None = None,
        check_reads: bool = False,
    ) -> "PostgresWriteStore":
        """The log a `postgresql://` URL names. Failures that pass are retried for `patience` seconds.

        WiringError where there is no log, or one that needs `twofold migrate`. Unavailable where the server cannot be
        reached.
        """
        store = cls(
            address_of(url),
            read_only=read_only,
            retention_days=retention_days,
            patience=patience,
            world=world or RealWorld(),
        )
        store._check_reads = check_reads
        try:
            await store._enter()
        except BaseException:
            await store.close()
            raise
        return store

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        if self._read_only:
            raise Unavailable(f"The log at {self._address.shown} was opened for reading only.")
        if self.damage:
            self.damage.refuse_appends([(append.conditions, append.command_id) for append in batch])
        return await self._tasks.run(self._append(tuple(batch)))

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        if self._read_only:
            raise Unavailable(f"The log at {self._address.shown} was opened for reading only.")
        return await self._tasks.run(self._append_reserved(conditions, decide))

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        conditions = [AppendCondition(query, after)]
        page, _ = await self._tasks.run(self._read(conditions, None, limit, size))
        return await self._sound(conditions, page)

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        page, outcome = await self._tasks.run(self._read(conditions, command_id, limit))
        self.damage.refuse_command(command_id)
        await self.raw_state().refuse_damaged([] if outcome is None else [command_id])
        return await self._sound(conditions, page), outcome

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        return await self._tasks.run(self._rows(space, None if keys is None else list(keys), limit))

    async def wait(self, after: Position, timeout: float) -> None:
        await self._news.wait(after, timeout)

    async def retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        await self._tasks.run(self._retag(tags))

    def raw_log(self) -> PostgresRawLog:
        return PostgresRawLog(self._call_to_read)

    def raw_state(self) -> PostgresRawState:
        return PostgresRawState(self._call_to_read)

    async def _call_to_read(self, function: functions.Function, *given: Any) -> Sequence[functions.ResultRow]:
        return await self._tasks.run(self._call(self._reading, function, *given))

    async def close(self) -> None:
        await self._tasks.close(self._news.close, self._writing.close, self._reading.close)

    # Appending

    async def _append(self, batch: Sequence[Append], reservation: Reservation | None = None) -> list[Outcome]:
        """The outcomes of a batch. The first call of it ends the reservation."""
        self._refuse_if_lost()
        if reservation is None:
            await self._retention.set_clock()
        batch = [await checked_early(append, self._news.head, self._first_match) for append in batch]
        outcomes: list[Outcome] = []
        while len(outcomes) < len(batch):
            rest = batch[len(outcomes) :] if outcomes else batch
            outcomes += await self._write(rest, len(outcomes), reservation)
            # Before the next request: a fail-over that has lost these events must be noticed.
            appended = [Known(outcome.position, outcome.chain) for outcome in outcomes if isinstance(outcome, Appended)]
            self._news.observe(max(appended, default=Known(0, b"")))
        self._news.wrote(self._notify)
        await self._retention.forget(len(batch))
        return await PostgresRawState(partial(self._call, self._reading)).sound(batch, outcomes)

    async def _write(self, batch: Sequence[Append], done: int, reservation: Reservation | None) -> list[Outcome]:
        """The outcomes of the next appends of a batch, as many as fit into one call. Repeats use the same nonce.

        If the reservation is lost, the call is repeated without it: whether it was written is then looked up.
        """
        types, nonce, seen = types_of(batch), self._nonce(), self._news.head
        while True:
            epoch, known = self.identity.epoch, self._news.known
            try:
                if not types <= self._types.keys():
                    if reservation is not None:
                        # In its transaction the numbers would be lost with it.
                        await reservation.end()
                    self._add_types(await self._call(self._writing, functions.NUMBER_TYPES, sorted(types)), epoch)
                    continue
                now = self._retention.clock.now()
                call = Call(batch, self._types, nonce, seen, recorded_at=now, done=done)
                arguments = call.arguments(epoch, known)
                answers = None if reservation is None else await reservation.append(arguments, call.check)
                if answers is None:
                    answers = await self._call(self._writing, functions.APPEND, *arguments, check=call.check)
            except AnotherEpoch:
                await self._rejoin()
                continue
            # If the epoch has changed, this process has left the server that answered: what it wrote may be lost.
            if self.identity.epoch == epoch:
                return call.outcomes(answers[0])

    async def _append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        self._refuse_if_lost()
        await self._retention.set_clock()
        reservation, page = await self._reserve(conditions)
        try:
            batch = await decide(page)
            self.damage.refuse_appends([(append.conditions, append.command_id) for append in batch])
            return await self._append(batch, reservation) if batch else []
        finally:
            await reservation.end()

    async def _reserve(self, conditions: Sequence[AppendCondition]) -> tuple[Reservation, Slice | None]:
        """The log, reserved, and what is newer than the conditions; None if that cannot be read."""
        while True:
            known, epoch = self._news.known, self.identity.epoch
            arguments = reading.arguments(conditions, None, None, known.position)
            try:
                reservation = await self._writing.reserve(*arguments)
            except (*LOST, asyncpg.PostgresError) as error:
                raise self._refused(error) from error
            try:
                response = reading.response(reservation.rows)
                if response.epoch != epoch or self.identity.epoch != epoch:
                    # What finds the present epoch needs the connection.
                    await reservation.end()
                if await self._is_ours(response, epoch, known):
                    return reservation, await self._newer_events(response, conditions, epoch)
            except BaseException:
                await reservation.end()
                raise

    async def _newer_events(
        self, response: reading.ReadResponse, conditions: Sequence[AppendCondition], epoch: int
    ) -> Slice | None:
        try:
            if any(type_id not in self._names for _, type_id, *_ in response.events):
                self._add_types(await self._call(self._reading, functions.TYPES), epoch)
            return await self._sound(conditions, reading.slice_of(response, self._names, None))
        except (TwofoldError, KeyError):
            # Who needs these events reads them, and gets the error.
            log.warning("Events could not be read under the lock of the log", exc_info=True)
            return None

    def _nonce(self) -> int:
        """A number that no other call has, in this process or another."""
        self._calls += 1
        digest = hashlib.blake2b(f"{self._instance}/{self._calls}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1

    async def _notify(self) -> None:
        await self._reading.call(functions.TELL, channel(self._address))

    # Reading

    async def _read(
        self, conditions: Sequence[AppendCondition], command_id: str | None, limit: int | None, size: int = PAGE_BYTES
    ) -> tuple[Slice, Appended | None]:
        while True:
            self._refuse_if_lost()
            known, epoch = self._news.known, self.identity.epoch
            arguments = reading.arguments(conditions, command_id, limit, known.position, size)
            response = reading.response(await self._call(self._reading, functions.READ, *arguments))
            if not await self._is_ours(response, epoch, known):
                continue
            if any(type_id not in self._names for _, type_id, *_ in response.events):
                self._add_types(await self._call(self._reading, functions.TYPES), epoch)
                if self.identity.epoch != epoch:
                    continue
            return reading.slice_of(response, self._names, limit, size), response.outcome

    async def _first_match(self, condition: AppendCondition) -> Slice:
        return (await self._read([condition], None, 1))[0]

    async def _sound(self, conditions: Sequence[AppendCondition], page: Slice) -> Slice:
        """The same page. Unavailable where it touches damage."""
        self.damage.refuse_page(conditions, page.events, page.upto)
        if self._check_reads:
            chains = await self.raw_log().chains(unlinked(page.events))
            self.damage.refuse_broken(page.events, chains, self.identity.log)
        return page

    async def _rows(self, space: str, keys: list[str] | None, limit: int | None) -> Mapping[str, LogRow]:
        while True:
            self._refuse_if_lost()
            known, epoch = self._news.known, self.identity.epoch
            result = await self._call(self._reading, functions.ROWS, space, keys, None, limit)
            response, rows = reading.rows_of(space, result)
            if await self._is_ours(response, epoch, known):
                return rows

    async def _read_head(self) -> Known:
        page, _ = await self._tasks.run(self._read([], None, None))
        return Known(page.head, page.chain)

    async def _retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        while True:
            stored = await self._call(self._reading, functions.TAGS, list(tags))
            try:
                await self._writing.call(functions.RETAG, *retag_arguments(stored, tags))
                return
            except asyncpg.PostgresError as error:
                if error.sqlstate != _CHANGED_MEANWHILE:
                    raise self._refused(error) from error

    async def _enter(self) -> None:
        await self._rejoin()
        if not self._read_only:
            self.damage.add(await self.raw_log().tail_damages(self.identity.log))
            ((number,),) = await self._call(self._writing, functions.ENTER)
            self._instance = f"{self._world.new_id()}/{number}"
            await self._retention.set_clock()
