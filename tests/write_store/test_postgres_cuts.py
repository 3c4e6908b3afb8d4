"""A connection that breaks before, in or after a commit leaves nobody in doubt: the command id tells the outcome."""

import asyncio

import pytest

from tests.patience import giving_up_after
from tests.servers.postgres import Postgres
from tests.servers.proxy import At, Proxy
from tests.write_store.postgres_helpers import fresh_log
from tests.write_store.postgres_load_helpers import Load, check_log, outcome_of
from twofold import Metadata, Unavailable
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import NewEvent
from twofold.write_store.port import Append, Appended, LogRow, RowWrite
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.postgres.batch import Call

_BY = Metadata(0, "c", "c")
APPENDING = b".append("


def one(command_id: str | None = "c-1") -> Append:
    return Append(_BY, (NewEvent("c-1.0", "a", 1, ("k:1",), b"{}"),), (), command_id, b"one")


async def behind(proxy: Proxy, server: Postgres) -> tuple[str, str]:
    """A new log, seen through the proxy and directly."""
    url = await fresh_log(server.dsn)
    return url.replace(server.dsn, proxy.dsn_of(server)), url


@pytest.mark.parametrize(
    "cuts", [pytest.param(500, id="500 cuts"), pytest.param(20_000, id="20000 cuts", marks=pytest.mark.torture)]
)
@pytest.mark.timeout(3_600)
async def test_each_command_has_its_effect_once_wherever_its_connection_breaks(
    postgres_newest: Postgres, cuts: int
) -> None:
    async with Proxy(postgres_newest.port) as proxy:
        through, direct = await behind(proxy, postgres_newest)
        nodes = [await PostgresWriteStore.open(through, patience=30.0) for _ in range(3)]
        load = Load(seed=cuts, reserving=0.3)
        made = proxy.cut(At.REQUEST, At.HALFWAY, At.ANSWER, matching=APPENDING, times=cuts, probability=0.5, seed=cuts)

        async def until_all_are_made() -> None:
            while made.made < cuts:
                await load.more(1)
            load.ended.set()

        await asyncio.gather(until_all_are_made(), load.run(nodes, callers=2))
        for node in nodes:
            await node.close()
        assert load.sent_again == 0, "the store resolves what is unknown by itself"
        assert not any(outcome.repeated for outcome in load.acknowledged.values()), "nobody sent anything twice"
        await check_log(direct, load, followed=False)


@pytest.mark.parametrize("at", At)
async def test_what_was_cut_is_answered_as_if_it_had_not_been(postgres: Postgres, at: At) -> None:
    async with Proxy(postgres.port) as proxy:
        through, _ = await behind(proxy, postgres)
        store = await PostgresWriteStore.open(through)
        await store.append([one("c-0")])
        made = proxy.cut(at, matching=APPENDING, times=2)
        rows = (RowWrite("s", "k", b"1", 0),)
        batch = [one("c-1"), one(None), Append(_BY, rows=rows), one("c-0")]
        assert await store.append(batch) == [
            Appended(2, 1), Appended(3, 1), Appended(3, 0), Appended(1, 1, repeated=True),
        ]  # fmt: skip
        assert made.made == 2
        assert len((await store.read(ALL_EVENTS)).events) == 3
        assert await store.rows("s") == {"k": LogRow(b"1", 1)}
        await store.close()


async def test_a_caller_who_gave_up_learns_from_another_node_what_the_command_came_to(
    postgres_newest: Postgres,
) -> None:
    async with Proxy(postgres_newest.port) as proxy:
        through, direct = await behind(proxy, postgres_newest)
        store = await PostgresWriteStore.open(through, patience=60.0)
        await store.append([one("c-0")])
        proxy.cut(At.ANSWER, matching=APPENDING, times=None)
        refusal = r"may have been written\. Send them again under the same command ids"
        with giving_up_after(0.3, store), pytest.raises(Unavailable, match=refusal):
            await store.append([one("c-1")])
        other = await PostgresWriteStore.open(direct)
        assert outcome_of(await other.append([one("c-1")])) == Appended(2, 1, repeated=True)
        await store.close()
        await other.close()


async def test_a_server_that_says_nothing_is_given_up_after_the_patience(postgres_newest: Postgres) -> None:
    async with Proxy(postgres_newest.port) as proxy:
        through, _ = await behind(proxy, postgres_newest)
        store = await PostgresWriteStore.open(through, patience=60.0)
        await store.append([one("c-0")])
        proxy.stall()
        with giving_up_after(0.3, store):
            for call in (store.append([one("c-1")]), store.read(ALL_EVENTS)):
                with pytest.raises(Unavailable, match="cannot be reached"):
                    await asyncio.wait_for(call, 30)
        proxy.resume()
        assert isinstance(outcome_of(await store.append([one("c-1")])), Appended)
        assert len((await store.read(ALL_EVENTS)).events) == 2
        await store.close()


async def test_an_answer_to_another_call_is_refused_and_its_connection_not_used_again(
    postgres_newest: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await PostgresWriteStore.open(await fresh_log(postgres_newest.dsn))
    await store.append([one("c-0")])
    opened, answers = store._writing.opened, Call.check
    wrong = iter([True])

    def check(self: Call, rows: list[tuple[object, ...]]) -> None:
        answers(self, [(6, *rows[0][1:])] if next(wrong, False) else rows)

    monkeypatch.setattr(Call, "check", check)
    assert await store.append([one("c-1")]) == [Appended(2, 1)]
    assert store._writing.opened == opened + 1
    await store.close()
