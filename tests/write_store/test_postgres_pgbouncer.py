"""Behind a PgBouncer that hands each transaction to another server connection, the log keeps all its promises."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from tests.write_store.postgres_load_helpers import Load, check_log
from twofold import Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import NewEvent
from twofold.errors import TwofoldError, WiringError
from twofold.testing.race import PRIZES, race
from twofold.testing.write_store_contract import WriteStoreContract
from twofold.testing.write_store_model import HISTORIES, QUERIES
from twofold.write_store.port import Append, WriteStore
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.postgres.literals import literal, rows

SERVER_CONNECTIONS = 2
SLOW = [HealthCheck.too_slow, HealthCheck.differing_executors, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def bouncer(pgbouncer_here: None, postgres_newest: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(postgres_newest.dsn, size=SERVER_CONNECTIONS) as bouncer:
        yield bouncer


async def log_behind(bouncer: PgBouncer, postgres_newest: Postgres) -> tuple[str, str]:
    """A new log, as it is named behind the pooler, and directly."""
    direct = await fresh_log(postgres_newest.dsn)
    return f"{direct.replace(postgres_newest.dsn, bouncer.dsn)}&pgbouncer=true", direct


class TestPostgresWriteStoreBehindPgBouncer(WriteStoreContract):
    rounds = 5

    @pytest.fixture(autouse=True)
    def servers(self, bouncer: PgBouncer, postgres_newest: Postgres) -> None:
        self.bouncer, self.postgres = bouncer, postgres_newest

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[WriteStore]:
        url, _ = await log_behind(self.bouncer, self.postgres)
        store = await PostgresWriteStore.open(url)
        try:
            yield store
        finally:
            await store.close()

    # Each history has a log of its own, and every call is planned anew.
    @settings(max_examples=15, deadline=None, suppress_health_check=SLOW)
    @given(history=HISTORIES, wanted=QUERIES)
    def test_any_history_comes_out_as_in_a_plain_list(self, history: Any, wanted: Any) -> None:
        asyncio.run(self._relive(history, wanted))


async def test_four_nodes_share_two_connections_and_each_decision_is_made_on_its_whole_past(
    bouncer: PgBouncer, postgres_newest: Postgres
) -> None:
    url, direct = await log_behind(bouncer, postgres_newest)
    nodes = [await PostgresWriteStore.open(url) for _ in range(4)]
    load = Load(seed=4, accounts=3, reserving=0.5)

    async def until_there_is_enough() -> None:
        while len(load.acknowledged) < 200:
            await load.more(1)
        load.ended.set()

    await asyncio.gather(until_there_is_enough(), load.run(nodes, callers=2), load.follow(url))
    for node in nodes:
        await node.close()
    assert load.conflicts > 0, "nobody raced"
    await check_log(direct, load)
    busy = "select count(*) from pg_stat_activity where application_name <> 'psql' and backend_type = 'client backend'"
    assert int(postgres_newest.sql(busy)) <= SERVER_CONNECTIONS + 1, "that was not a pool of two"


@pytest.mark.parametrize("prize", PRIZES)
async def test_of_those_who_race_one_wins(bouncer: PgBouncer, postgres_newest: Postgres, prize: str) -> None:
    url, _ = await log_behind(bouncer, postgres_newest)
    store = await PostgresWriteStore.open(url)
    await race(store, PRIZES[prize], racers=16, rounds=3, in_one_batch=False)
    await store.close()


async def test_news_come_without_notifications(bouncer: PgBouncer, postgres_newest: Postgres) -> None:
    url, direct = await log_behind(bouncer, postgres_newest)
    reader, writer = await PostgresWriteStore.open(url), await PostgresWriteStore.open(direct)
    waiting = asyncio.create_task(reader.wait(0, 100))
    await reader.read(ALL_EVENTS)
    await writer.append([noted("c")])
    await asyncio.wait_for(waiting, 30)
    assert (await reader.read(ALL_EVENTS)).head == 1
    await asyncio.gather(reader.close(), writer.close())


def noted(command_id: str, tag: str = "k:1") -> Append:
    event = NewEvent(f"{command_id}.0", "noted", 1, (tag,), b"{}")
    return Append(Metadata(0, command_id, command_id), (event,), (), command_id)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("bad", [noted("c\0"), noted("c", "k:\0")])
async def test_a_zero_in_text_is_refused_in_a_sentence_and_the_next_append_goes_through(
    bouncer: PgBouncer, postgres_newest: Postgres, pooled: bool, bad: Append
) -> None:
    behind, direct = await log_behind(bouncer, postgres_newest)
    store = await PostgresWriteStore.open(behind if pooled else direct)
    with pytest.raises(TwofoldError):
        await store.append([bad])
    await store.append([noted("good")])
    assert [event.id for event in (await store.read(ALL_EVENTS)).events] == ["good.0"]
    await store.close()


@pytest.mark.parametrize("attempt", range(3))
async def test_without_the_word_in_the_url_a_pooler_is_refused_at_start(
    bouncer: PgBouncer, postgres_newest: Postgres, attempt: int
) -> None:
    """One log's prepared statement could be executed in place of another's."""
    url, direct = await log_behind(bouncer, postgres_newest)
    for without in (url.replace("&pgbouncer=true", ""), url.replace("=true", "=false")):
        with pytest.raises(WiringError, match="Add pgbouncer=true"):
            await PostgresWriteStore.open(without)
    for right in (url, direct):
        await (await PostgresWriteStore.open(right)).close()


TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40)
ODD = st.sampled_from(
    ["", "'", "\\", "\\'", "''", "E'", "$1", "%s", "--", "/*", "\n\r\t", "\\x00", "null", "{}", "🦊", "é"]
)
TEXTS = st.one_of(TEXT, ODD, st.lists(ODD, max_size=6).map("".join))
INTS = st.one_of(st.integers(-(2**31), 2**31 - 1), st.just(-(2**31)))
BIGINTS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.just(-(2**63)))
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "int": INTS,
    "bigint": BIGINTS,
    "text": TEXTS,
    "bytea": st.binary(max_size=40),
}
KINDS: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.one_of(st.none(), values) for name, values in PLAIN.items()},
    **{
        f"{name}[]": st.one_of(st.none(), st.lists(st.one_of(st.none(), values), max_size=8))
        for name, values in PLAIN.items()
    },
}


@pytest.mark.parametrize("conforming", ["on", "off"])
@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(values=st.lists(st.fixed_dictionaries(KINDS), min_size=1, max_size=5))
def test_any_value_comes_back_from_the_server_as_it_was_written(
    postgres_newest: Postgres, conforming: str, values: list[dict[str, Any]]
) -> None:
    asyncio.run(round_trip(postgres_newest.dsn, conforming, values))


async def round_trip(dsn: str, conforming: str, values: list[dict[str, Any]]) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"standard_conforming_strings": conforming})
    try:
        written = " union all ".join(
            "select " + ", ".join(f"cast({literal(row[kind], kind)} as {kind})" for kind in KINDS) for row in values
        )
        answer = bytearray()

        async def collect(data: bytes) -> None:
            answer.extend(data)

        await connection.copy_from_query(written, output=collect, format="binary")
        assert rows(bytes(answer), tuple(KINDS)) == [tuple(row[kind] for kind in KINDS) for row in values]
    finally:
        connection.terminate()


@pytest.mark.parametrize("value", ["a\0b", "\0", 5, b"bytes"])
def test_what_is_no_text_for_the_server_is_no_literal(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a text"):
        literal(value, "text")
