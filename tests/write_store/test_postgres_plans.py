"""Plans stay sound where statistics mislead: measured by the pages that the server reads."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery, QueryItem
from twofold.write_store.port import Append
from twofold.write_store.postgres import functions, literals, reading
from twofold.write_store.postgres.batch import Call, Known

EVENTS = 30_000
FEW_PAGES = 100
"""What a sound plan looks at, the catalogue included. The log has some 600, its index of positions 80 more."""
RARE = AppendCondition(EventQuery((QueryItem(("rare",)),)), 0)
TYPES = {"common": 1, "rare": 2}


@pytest.fixture
async def log(postgres: Postgres) -> AsyncIterator["Log"]:
    """A log whose statistics know one type only, as they do before they are gathered anew."""
    schema = (await fresh_log(postgres.dsn)).partition("schema=")[2]
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(
        f"""
        insert into {schema}.event_types (name) values ('common'), ('rare');
        insert into {schema}.events select n, 1, 1, repeat('x', 50)::bytea, repeat('y', 50)::bytea
          from generate_series(1, {EVENTS}) n;
        update {schema}.log_head set position = {EVENTS};
        analyze {schema}.events;
        """
    )
    yield Log(connection, schema)
    await connection.close()


class Log:
    """A server that tells how many pages a call looks at."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def pages(self, function: functions.Function, arguments: Any) -> int:
        """Those of the second call: the first one makes the plans."""
        call = f"explain (analyze, buffers, format json) {self._sql(function, arguments)}"
        transaction = self._connection.transaction()
        await transaction.start()
        await self._connection.fetchval(call)
        await transaction.rollback()
        (explained,) = json.loads(await self._connection.fetchval(call))
        return int(explained["Plan"]["Shared Hit Blocks"]) + int(explained["Plan"]["Shared Read Blocks"])

    async def rows(self, function: functions.Function, arguments: Any) -> int:
        """How many rows the server sends."""
        return len(await self._connection.fetch(self._sql(function, arguments)))

    def _sql(self, function: functions.Function, arguments: Any) -> str:
        given = [literals.literal(*each) for each in zip(arguments, function.arguments, strict=True)]
        return function.call(self._schema, given)


@pytest.mark.parametrize("limit", [1, None])
async def test_a_rare_type_is_not_looked_for_in_the_whole_log(log: Log, limit: int | None) -> None:
    assert await log.pages(functions.READ, reading.arguments([RARE], None, limit)) < FEW_PAGES


@pytest.mark.parametrize(("size", "events"), [(1, 1), (100, 1), (101, 2), (1_000, 10), (10**9, 50)])
async def test_the_server_sends_no_more_events_than_a_page_of_that_size_has(log: Log, size: int, events: int) -> None:
    everything = AppendCondition(ALL_EVENTS, 0)
    arguments = reading.arguments([everything], None, 50, 0, size)
    assert await log.rows(functions.READ, arguments) == 1 + events


async def test_a_condition_on_a_rare_type_is_not_looked_for_in_the_whole_log_under_the_lock(log: Log) -> None:
    call = Call([Append(Metadata(0, "c", "c"), (), (RARE,), "c")], TYPES, 1, EVENTS, recorded_at=0)
    assert await log.pages(functions.APPEND, call.arguments(1, Known(0, b""))) < FEW_PAGES
