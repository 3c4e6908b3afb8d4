"""In charge of reading: one moment of all read models, held by a transaction on a connection of its own."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import asyncpg

from twofold.errors import TwofoldError, Unavailable
from twofold.postgres_server import LOST, Connection, closed_after
from twofold.read_store.access import Access, check_access
from twofold.read_store.partition import Partition
from twofold.read_store.port import Checkpoint, FindPage, Native, Parked, Progress, ReadModel
from twofold.read_store.postgres.table import CHECKPOINTS, PARKED, Table, qualified
from twofold.read_store.postgres.text import key_of, short_key, unescaped

PLANS = {
    # A plan that was made for a small table would be kept when it has grown. To make one anew takes some 40 µs.
    "plan_cache_mode": "force_custom_plan",
    # There is an index in the order of each find, however few rows the server believes there are to sort.
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    # What has to be sorted all the same seems so dear that the server would compile it.
    "jit": "off",
}
_PROGRESS = """
select lowest.position, lowest.log, lowest.updated,
       key, whole_key, parked.position, error, since, waiting, upto
from (select position, log, max(updated) over () as updated
      from {checkpoints} where rows_in = $1 order by position limit 1) lowest
left join {parked} parked on rows_in = $1
"""
_CHECKPOINTS = """
select rows_in, model, generation, first, "end", position, log, updated, epoch from {checkpoints}
"""
_PARKED = """
select rows_in, key, whole_key, position, error, since, waiting, upto from {parked}
"""


class PostgresSnapshot:
    """One moment, for as long as its connection is held: `longest` seconds at most, then the connection is closed.

    `refused` makes one of our errors of one of the driver's. `native` gives the connection: `fetch`, `fetchrow` and
    `fetchval` see this moment (`cursor` and `transaction` do not work, since the transaction was begun by us). For what
    has to sort a great many rows, `set local enable_sort = on` over it first.
    """

    def __init__(
        self,
        connection: Connection,
        schema: str,
        table: Callable[[ReadModel], Table],
        finish: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]],
        refused: Callable[[BaseException], TwofoldError],
        *,
        patience: float,
        longest: float,
    ) -> None:
        self._connection = connection
        self._table = table
        self._finish = finish
        self._refused = refused
        self._patience = patience
        self._longest = longest
        self._names = {
            "checkpoints": qualified(schema, CHECKPOINTS),
            "parked": qualified(schema, PARKED),
        }
        self._turn = asyncio.Lock()
        self._lent = False
        self._late = False
        self._timer = asyncio.get_running_loop().call_later(longest, self._cut_off)

    async def get(self, model: ReadModel, key: str) -> Any | None:
        table = self._table(model)
        try:
            short = short_key(key)
        except UnicodeEncodeError:
            # No row can have such a key.
            return None
        found = await self._fetch(table.select, short)
        return table.row(found[0][0]) if found else None

    async def find(
        self,
        model: ReadModel,
        filters: Mapping[str, Any],
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int,
        cursor: str | None = None,
    ) -> FindPage:
        table = self._table(model)
        access = check_access(model, table.columns, filters, order_by, descending, limit, cursor)
        if access.matches_nothing:
            return FindPage([], None)
        found = await self._find(table, access, exact=table.needs_exact(access))
        page = [(key_of(short, whole), table.row(row)) for short, whole, row, _ in found[:limit]]
        if len(found) <= limit:
            return FindPage(page, None)
        key, row = page[-1]
        order = table.columns[access.order] if access.order else None
        return FindPage(page, access.cursor(order.value(order.get(row)) if order else None, key))

    async def progress(self, model: ReadModel) -> Progress:
        rows_in = self._table(model).rows_in
        found = await self._fetch(_PROGRESS.format(**self._names), rows_in)
        if not found:
            return Progress(0, "", 0)
        position, log, updated = found[0][:3]
        parked = [_parked(*each[3:]) for each in found if each[3] is not None]
        return Progress(position, unescaped(log), updated, tuple(sorted(parked, key=_key)))

    def native(self, model: ReadModel) -> Native:
        table = self._table(model)
        self._lent = True
        return Native(self._connection, table.name)

    async def checkpoints(self) -> list[Checkpoint]:
        """How far all partitions of everything that is kept have come; none where nothing was ever made."""
        if not (await self._fetch("select to_regclass($1) is not null", self._names["parked"]))[0][0]:
            return []
        parked: dict[str, list[Parked]] = {}
        for rows_in, *each in await self._fetch(_PARKED.format(**self._names)):
            parked.setdefault(rows_in, []).append(_parked(*each))
        found: list[Checkpoint] = []
        for rows_in, model, generation, first, end, position, log, updated, epoch in await self._fetch(
            _CHECKPOINTS.format(**self._names)
        ):
            share = Partition(first, end)
            aside = sorted((each for each in parked.get(rows_in, ()) if share.holds(each.key)), key=_key)
            progress = Progress(position, unescaped(log), updated, tuple(aside))
            found.append(Checkpoint(unescaped(model), generation, progress, share, epoch))
        return sorted(found, key=lambda each: (each.name, each.generation, each.partition))

    async def end(self) -> None:
        """End the transaction, and whatever was set over the native connection. asyncpg's errors where that fails."""
        async with self._turn:
            self._timer.cancel()
            await self._connection.execute("rollback")
            if self._lent:
                await self._connection.reset()

    async def _find(self, table: Table, access: Access, *, exact: bool) -> list[Any]:
        """One row more than asked for, if there is one: it tells whether there is a next page."""
        found: list[Any] = []
        for sql, arguments in table.finds(access, exact=exact):
            limit = access.limit + 1 - len(found)
            found += await self._fetch(f"{sql} limit ${len(arguments) + 1}", *arguments, limit)
            if len(found) > access.limit:
                break
        if not exact and any(cut for *_, cut in found):
            return await self._find(table, access, exact=True)
        return found

    async def _fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Rows, one statement at a time however many ask at once."""
        found: Sequence[Any] = await self._finish(self._fetch_alone(sql, arguments))
        return found

    async def _fetch_alone(self, sql: str, arguments: Sequence[Any]) -> Sequence[Any]:
        async with self._turn:
            try:
                with closed_after(self._patience, self._connection):
                    found: Sequence[Any] = await self._connection.fetch(sql, *arguments)
                    return found
            except (*LOST, asyncpg.PostgresError) as error:
                if self._late:
                    raise Unavailable(
                        f"This snapshot was held for longer than {self._longest:g} s and had to be given back: it "
                        "keeps the server from clearing away old rows. Ask for less at a time."
                    ) from error
                raise self._refused(error) from error

    def _cut_off(self) -> None:
        self._late = True
        self._connection.terminate()


async def begin(connection: Connection, longest: float) -> None:
    """Take a snapshot, which the server ends by itself where nothing is asked in it for `longest` seconds.

    The settings end with it: a pooler would hand them on.
    """
    settings = {**PLANS, "idle_in_transaction_session_timeout": int(1_000 * longest)}
    local = "".join(f"set local {name} = {value};" for name, value in settings.items())
    # The first statement that asks for something takes the snapshot.
    await connection.execute(f"begin isolation level repeatable read, read only; {local} select 1")


def _parked(key: str, whole: str | None, position: int, error: str, since: int, waiting: int, upto: int) -> Parked:
    return Parked(key_of(key, whole), position, unescaped(error), since, waiting, upto)


def _key(parked: Parked) -> str:
    return parked.key
