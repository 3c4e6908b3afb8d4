"""Many racers on several nodes, one winner; and each way of locking that looks right and is wrong loses the race."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import broken_log, fresh_log
from twofold import EventQuery, Unavailable
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.testing.race import PRIZES, race
from twofold.write_store.port import Append, Outcome, Slice
from twofold.write_store.postgres import PostgresWriteStore

NODES = 4

LOCK = "statement after this one.\n    select * into strict head from log_head for update;"
PROBE = """array(
        select p.i from unnest(p_probe_of, p_probe_after, p_probe_tag, p_probe_type) as p(i, after, tag, type_id)
         cross join lateral (
            select from event_tags t
             where t.tag = p.tag and t.type_id = p.type_id and t.position > p.after limit 1
         ) as newer
    )"""
DONE = "    return next;\nend\n"
# Two may hold the same position only where nothing else forbids it: the keys are a second line that must not hide this.
EVENTS_KEY = ("    position bigint primary key,\n    type_id", "    position bigint,\n    type_id")
TAGS_KEY = ("    primary key (tag, type_id, position)", "    copy bigint generated always as identity")
NO_KEYS = (EVENTS_KEY, TAGS_KEY)
# Between the check and the write, so that whoever is let in by mistake comes in time.
_WRITE = "    if cardinality(p_of) > 0 then\n        insert"
SLOW = (_WRITE, f"    perform pg_sleep(0.003);\n{_WRITE}")
TAKE, GIVE_BACK = "pg_advisory_lock(7)", "pg_advisory_unlock(7)"
MOVE_HEAD = """    update log_head h
       set position = base + cardinality(p_of) - left_out, chain = linked,
           commands_checksum = h.commands_checksum + commands_added,
           rows_checksum = h.rows_checksum + rows_added;
"""
READ = "    select * into strict head from log_head;"

WRONG = {
    "lock and check in one statement": (
        ("    written  bigint;", "    written  bigint;\n    e int;\n    p bigint;\n    t text;\n    c bytea;"),
        (
            LOCK,
            "\n    with locked as materialized (select * from log_head for update)\n"
            f"    select l.epoch, l.position, l.timeline, l.chain, {PROBE} into e, p, t, c, refused from locked l;\n"
            "    select null, null, e, p, null, t, c into head;",
        ),
        ("    refused := " + PROBE + ";", ""),
        SLOW,
    ),
    "a lock given back before the commit": (
        (LOCK, f"\n    perform {TAKE};\n{READ}"),
        (DONE, f"    perform {GIVE_BACK};\n    perform pg_sleep(0.003);\n{DONE}"),
        *NO_KEYS,
    ),
    "no lock": ((LOCK, f"\n{READ}"), SLOW, *NO_KEYS),
    "a snapshot from before the lock": (
        ("<> 'read committed'", "= 'none'"),
        (LOCK, f"\n    perform pg_advisory_xact_lock(7);\n{READ}"),
        (MOVE_HEAD, ""),
        ("select h.position, -1,", "select (select coalesce(max(e.position), 0) from events e), -1,"),
        ("    base := head.position;", "    base := (select coalesce(max(e.position), 0) from events e);"),
        SLOW,
        *NO_KEYS,
    ),
}  # fmt: skip


class Nodes:
    """A write store that is several nodes in turns. Racers start one after another, not all at the same moment."""

    def __init__(self, nodes: Sequence[PostgresWriteStore]) -> None:
        self._turns = itertools.cycle(nodes)
        self._stagger = itertools.cycle(range(0, 40, 3))

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        for _ in range(next(self._stagger)):
            await asyncio.sleep(0)
        return await next(self._turns).append(batch)

    async def read(self, query: EventQuery, after: int = 0, limit: int | None = None) -> Slice:
        return await next(self._turns).read(query, after, limit)


async def run_race(url: str, prize: str, *, racers: int, rounds: int, patience: float = 10.0) -> None:
    """The race on several nodes of one log."""
    nodes = [await PostgresWriteStore.open(url, patience=patience) for _ in range(NODES)]
    try:
        await race(Nodes(nodes), PRIZES[prize], racers=racers, rounds=rounds, in_one_batch=False)  # type: ignore[arg-type]
    finally:
        for node in nodes:
            await node.close()


@pytest.mark.parametrize("prize", PRIZES)
async def test_of_sixty_four_racers_on_four_nodes_one_wins_each_round(postgres: Postgres, prize: str) -> None:
    await run_race(await fresh_log(postgres.dsn), prize, racers=64, rounds=15)


@pytest.mark.torture
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("prize", PRIZES)
async def test_of_sixty_four_racers_on_four_nodes_one_wins_each_of_many_rounds(
    postgres_newest: Postgres, prize: str
) -> None:
    await run_race(await fresh_log(postgres_newest.dsn), prize, racers=64, rounds=2_000)


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_way_to_lock_loses_the_race(postgres: Postgres, wrong: str) -> None:
    url = await broken_log(postgres.dsn, *WRONG[wrong])
    if wrong == "a snapshot from before the lock":
        url += "&default_transaction_isolation=repeatable%20read"
    # A node may also find another event, or none, where it has written its own.
    with pytest.raises(
        (AssertionError, Unavailable),
        match=r"racers won|the log holds|got Conflict|another history|is damaged|has seen",
    ):
        # It ends with the first round that is lost.
        await run_race(url, "one tag", racers=16, rounds=400)


async def test_the_same_race_is_won_with_the_right_lock(postgres: Postgres) -> None:
    await run_race(await broken_log(postgres.dsn, SLOW), "one tag", racers=16, rounds=20)


async def test_an_isolation_level_under_which_the_lock_would_not_do_is_refused(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn) + "&default_transaction_isolation=repeatable%20read"
    with pytest.raises(Unavailable, match="append needs the isolation level read committed, not repeatable read"):
        await run_race(url, "one tag", racers=2, rounds=1)


async def test_a_position_is_not_given_again_where_the_end_of_the_log_was_cut_off(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    schema = url.rpartition("=")[2]
    await run_race(url, "one tag", racers=2, rounds=3)
    store = await PostgresWriteStore.open(url)
    head = (await store.read(ALL_EVENTS)).head
    postgres_newest.sql(f"set session_replication_role = replica; delete from {schema}.events where position = {head}")
    await store.close()
    await run_race(url, "one tag", racers=1, rounds=0)
    store = await PostgresWriteStore.open(url)
    assert (await store.read(NO_EVENTS)).head == head
    assert (await store.read(ALL_EVENTS, limit=head - 1)).upto == head - 1
    with pytest.raises(Unavailable, match=f"damaged at position {head}"):
        await store.read(ALL_EVENTS)
    await store.close()
