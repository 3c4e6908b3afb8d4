"""The log in PostgreSQL: durable, and written by any number of processes at once."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import asyncpg

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position
from twofold.errors import TwofoldError, Unavailable
from twofold.postgres_server import LOST, PostgresAddress
from twofold.uncancellable import UncancellableTasks
from twofold.world import RealWorld, World
from twofold.write_store.chain import chain_digest
from twofold.write_store.damage import KnownDamage, unlinked
from twofold.write_store.log_content import LogUse, moved_to
from twofold.write_store.port import (
    PAGE_BYTES,
    Append,
    Appended,
    LogIdentity,
    LogRow,
    Outcome,
    Slice,
)
from twofold.write_store.postgres import functions, reading
from twofold.write_store.postgres.address import address_of
from twofold.write_store.postgres.batch import Call, Known, types_of
from twofold.write_store.postgres.connections import LogConnections, not_migrated
from twofold.write_store.postgres.copies import PostgresCopies
from twofold.write_store.postgres.early_check import checked_early
from twofold.write_store.postgres.migrate import migrations
from twofold.write_store.postgres.news import News, channel
from twofold.write_store.postgres.raw_log import PostgresRawLog
from twofold.write_store.postgres.refused import FORKED, AnotherEpoch, refused
from twofold.write_store.postgres.retagging import retag_arguments
from twofold.write_store.postgres.retention import CommandRetention

log = logging.getLogger(__name__)

DAY = 86_400_000_000
_READERS = 4
_CHANGED_MEANWHILE = "TF006"


class PostgresWriteStore(PostgresCopies):
    """A write store in one schema of a PostgreSQL database, which any number of processes write at once.

    A batch is one call of one SQL function, which commits by itself. If the connection is cut between commit and
    answer, the batch is sent again under the same command ids, and the server answers with the first outcome.
    """

    def __init__(
        self, address: PostgresAddress, *, read_only: bool, retention_days: float, patience: float, world: World
    ) -> None:
        super().__init__(address)
        self.identity = LogIdentity("", 0)
        self.problem: str | None = None
        self.exclusive = False
        self.damage = KnownDamage()
        self._check_reads = False
        self._world = world
        self._read_only = read_only
        self.retention = int(retention_days * DAY)
        self._writing = LogConnections(address, world, 1, patience)
        self._reading = LogConnections(address, world, _READERS, patience)
        self._news = News(address, world, self._read_head)
        self._names: dict[int, str] = {}
        self._types: dict[str, int] = {}
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
        async def call(function: functions.Function, *given: Any) -> Sequence[functions.ResultRow]:
            return await self._tasks.run(self._call(self._reading, function, *given))

        return PostgresRawLog(call)

    async def close(self) -> None:
        await self._tasks.close(self._news.close, self._writing.close, self._reading.close)

    # Appending

    async def _append(self, batch: Sequence[Append]) -> list[Outcome]:
        self._refuse_if_lost()
        await self._retention.set_clock()
        batch = [await checked_early(append, self._news.head, self._first_match) for append in batch]
        outcomes: list[Outcome] = []
        while len(outcomes) < len(batch):
            rest = batch[len(outcomes) :] if outcomes else batch
            outcomes += await self._write(rest, len(outcomes))
            # Before the next request: a fail-over that has lost these events must be noticed.
            appended = [Known(outcome.position, outcome.chain) for outcome in outcomes if isinstance(outcome, Appended)]
            self._news.observe(max(appended, default=Known(0, b"")))
        self._news.wrote(self._notify)
        await self._retention.forget(len(batch))
        return outcomes

    async def _write(self, batch: Sequence[Append], done: int) -> list[Outcome]:
        """The outcomes of the next appends of a batch, as many as fit into one call. Repeats use the same nonce."""
        types, nonce, seen = types_of(batch), self._nonce(), self._news.head
        while True:
            epoch, known = self.identity.epoch, self._news.known
            try:
                if not types <= self._types.keys():
                    self._add_types(await self._call(self._writing, functions.NUMBER_TYPES, sorted(types)), epoch)
                    continue
                now = self._retention.clock.now()
                call = Call(batch, self._types, nonce, seen, recorded_at=now, done=done)
                (answer,) = await self._call(
                    self._writing, functions.APPEND, *call.arguments(epoch, known), check=call.check
                )
            except AnotherEpoch:
                await self._rejoin()
                continue
            # If the epoch has changed, this process has left the server that answered: what it wrote may be lost.
            if self.identity.epoch == epoch:
                return call.outcomes(answer)

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
            response, rows = reading.rows_of(result)
            if await self._is_ours(response, epoch, known):
                return rows

    async def _is_ours(self, response: reading.ReadResponse, epoch: int, known: Known) -> bool:
        """Whether a response belongs to the history this process knew when it asked. False: read again."""
        if response.epoch < epoch:
            await self._leave(response.epoch, epoch)
        if response.epoch > epoch:
            await self._rejoin(response.epoch)
            return False
        if self.identity.epoch != epoch:
            return False
        self._refuse_behind(response.head, known)
        chain = response.chain if response.head == known.position else response.known_chain
        if known.position and chain is not None and chain != known.chain:
            self._stop_forked(
                f"its chain at position {known.position:,} is {chain_digest(chain)}, not {chain_digest(known.chain)}"
            )
        self._news.observe(Known(response.head, response.chain))
        return True

    def _refuse_behind(self, head: Position, known: Known) -> None:
        if head < known.position:
            raise Unavailable(
                f"The server at {self._address.shown} is at position {head}, but this process has seen "
                f"{known.position}. It is a standby that is behind, or was restored. Name the primary in the URL."
            )

    def _stop_forked(self, reason: str) -> NoReturn:
        """Take no more commands and answer no more reads: the log was replaced."""
        self.problem = (
            f"The log {self.identity.log} has another history than this process has seen: {reason}. A backup was "
            "restored. Restart the process; what it followed is checked again. See `twofold recover`."
        )
        log.error("%s", self.problem)
        raise Unavailable(self.problem)

    async def _read_head(self) -> Known:
        page, _ = await self._tasks.run(self._read([], None, None))
        return Known(page.head, page.chain)

    def _add_types(self, types: Sequence[Sequence[Any]], epoch: int) -> None:
        """Remember the numbers of types that were read in an epoch. Another history may have other numbers."""
        if epoch != self.identity.epoch:
            return
        for type_id, name in types:
            self._names[type_id] = name
            self._types[name] = type_id

    async def _retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        while True:
            stored = await self._call(self._reading, functions.TAGS, list(tags))
            try:
                await self._writing.call(functions.RETAG, *retag_arguments(stored, tags))
                return
            except asyncpg.PostgresError as error:
                if error.sqlstate != _CHANGED_MEANWHILE:
                    raise self._refused(error) from error

    # Which history this is

    async def _enter(self) -> None:
        await self._rejoin()
        if not self._read_only:
            self.damage.add(await self.raw_log().tail_damages(self.identity.log))
            ((number,),) = await self._call(self._writing, functions.ENTER)
            self._instance = f"{self._world.new_id()}/{number}"
            await self._retention.set_clock()

    async def begin_epoch(self, cause: str) -> int:
        await self._call(self._writing, functions.RAISE_EPOCH, self.identity.epoch, cause)
        await self._rejoin()
        return self.identity.epoch

    async def _rejoin(self, at_least: int = 0) -> None:
        """Find the present epoch. Begin a new one if the server is not the one the log was written on.

        This process carries on if all it has seen is before the position where the histories diverge. If not, it is
        Unavailable for good: caches and followers have seen events that no longer exist. It is Unavailable for now
        where the server is in an older epoch than this process knows, or than `at_least`: an old primary.
        """
        connections = self._reading if self._read_only else self._writing
        # The chain is compared at this position. Meanwhile other calls may see more.
        seen = self._news.known
        states = await self._call(connections, functions.STATE, seen.position)
        if not states:
            # `twofold migrate` was interrupted.
            raise not_migrated(self._address)
        (state,) = states
        self._refuse_use(LogUse(*state[9:]))
        moved = state[4]
        if moved is not None and not self._read_only:
            await self._call(self._writing, functions.RAISE_EPOCH, state[1], moved)
            seen = self._news.known
            (state,) = await self._call(connections, functions.STATE, seen.position)
        name, epoch, head, migrated, _, epochs, afters, chain, known_chain, _, _ = state
        if migrated < len(migrations(self._address.schema)):
            raise not_migrated(self._address)
        forks = tuple(zip(epochs, afters, strict=True))
        known = self.identity
        at_least = max(at_least, known.epoch)
        if epoch < at_least and known.log in ("", name):
            await self._leave(epoch, at_least)
        now = LogIdentity(name, epoch, forks)
        if known.log and not now.holds(known.stamp(""), self._news.head):
            common = min((after for began, after in forks if began > known.epoch), default=0)
            self.problem = (
                f"The log {name} has lost events: this process has seen position {self._news.head:,}, but epoch "
                f"{epoch} continues after {common:,}. Find out which acknowledged events are lost, then restart the "
                "process. Read models that are ahead of the log are refused and must be rebuilt."
                if known.log == name
                else f"The server at {self._address.shown} now has the log {name}, not {known.log}. Restart the "
                "process."
            )
            self._refuse_if_lost()
        self._refuse_behind(head, seen)
        if seen.position and known_chain != seen.chain:
            self._stop_forked(f"its chain at position {seen.position:,} is not {chain_digest(seen.chain)}")
        if known.epoch != epoch:
            self._types, self._names = {}, {}
        self.identity = now
        self._news.observe(Known(head, chain))

    def _refuse_use(self, used: LogUse) -> None:
        """WiringError where this is not a log to be opened; Unavailable for good where it was moved meanwhile."""
        here = self._address.shown
        if used.use == "moved" and self.identity.log and not self._read_only:
            self.problem = moved_to(here, used.place)
            self._refuse_if_lost()
        used.refuse(here, read_only=self._read_only)

    async def _leave(self, epoch: int, newer: int) -> NoReturn:
        """Close the connections and raise Unavailable: the next request looks for another server."""
        await self._writing.close()
        await self._reading.close()
        raise Unavailable(
            f"The server at {self._address.shown} has epoch {epoch} of the log, but the log is in epoch {newer} on "
            "another server. It is an old primary that was not stopped, or a standby that is behind. Stop it, or name "
            "the primary in the URL."
        )

    def _refuse_if_lost(self) -> None:
        if self.problem is not None:
            raise Unavailable(self.problem)

    # Calling SQL functions

    async def _call(
        self,
        connections: LogConnections,
        function: functions.Function,
        *arguments: Any,
        check: Callable[[Sequence[functions.ResultRow]], None] | None = None,
    ) -> Sequence[functions.ResultRow]:
        try:
            return await connections.call(function, *arguments, check=check)
        except (*LOST, asyncpg.PostgresError) as error:
            raise self._refused(error, writes=connections is self._writing) from error

    def _refused(self, error: BaseException, *, writes: bool = True) -> TwofoldError:
        if getattr(error, "sqlstate", None) == FORKED:
            self._stop_forked(str(error))
        return refused(self._address, error, writes=writes)
