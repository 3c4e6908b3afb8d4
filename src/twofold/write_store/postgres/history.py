"""Which history of a log in PostgreSQL this process has seen, and calls that notice when the server has another one."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import asyncpg

from twofold.domain.events import Position
from twofold.errors import TwofoldError, Unavailable
from twofold.postgres_server import LOST, PostgresAddress
from twofold.world import World
from twofold.write_store.chain import chain_digest
from twofold.write_store.damage import KnownDamage
from twofold.write_store.log_content import LogUse, moved_to
from twofold.write_store.port import LogIdentity
from twofold.write_store.postgres import functions, reading
from twofold.write_store.postgres.batch import Known
from twofold.write_store.postgres.connections import LogConnections, not_migrated
from twofold.write_store.postgres.copies import PostgresCopies
from twofold.write_store.postgres.migrate import migrations
from twofold.write_store.postgres.news import News
from twofold.write_store.postgres.refused import FORKED, refused

log = logging.getLogger(__name__)

_READERS = 4


class PostgresHistory(PostgresCopies):
    """The part of `PostgresWriteStore` that calls SQL functions, and checks which log and which epoch has answered."""

    def __init__(self, address: PostgresAddress, world: World, news: News, *, read_only: bool, patience: float) -> None:
        super().__init__(address)
        self.identity = LogIdentity("", 0)
        self.problem: str | None = None
        self.damage = KnownDamage()
        self._world = world
        self._read_only = read_only
        self._writing = LogConnections(address, world, 1, patience)
        self._reading = LogConnections(address, world, _READERS, patience)
        self._news = news
        self._names: dict[int, str] = {}
        self._types: dict[str, int] = {}

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

    def _add_types(self, types: Sequence[Sequence[Any]], epoch: int) -> None:
        """Remember the numbers of types that were read in an epoch. Another history may have other numbers."""
        if epoch != self.identity.epoch:
            return
        for type_id, name in types:
            self._names[type_id] = name
            self._types[name] = type_id
