"""Corrupt rows are reported, in whichever copy they are corrupt, and do not hide the other rows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import msgspec
import pytest

from tests.servers.cassandra import Cassandra, fresh_keyspace
from tests.servers.mongodb import fresh_database
from tests.servers.postgres import fresh_schema
from twofold.errors import Unavailable
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.port import Change, RawRow, ReadModel, ReadStore, VersionedRow
from twofold.stores import open_read_store
from twofold.testing.read_store_rows import LOG, found_rows
from twofold.world import RealWorld

LONG = "x" * 2_000


class Thing(msgspec.Struct, frozen=True):
    name: str
    total: int = 0
    note: str | None = None
    money: Decimal = Decimal(0)
    since: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    größe: float = 0.5


FIELDS = Thing.__struct_fields__
MODEL = ReadModel("Things", 3, Thing, (("name",), ("name", "note")), ("total", "money", "since", "größe"))
ROWS = {
    "a": Thing("ann", 1, LONG),
    "b": Thing("bob", 2, None, Decimal("1.20")),
    "c": Thing(LONG, 3, "n", Decimal("-7")),
    "d": Thing("dan", 4, "n", Decimal("1E+30"), größe=2**53 + 1),
}
PLAIN = {key: msgspec.json.decode(msgspec.json.encode(row)) for key, row in ROWS.items()}


@pytest.fixture(params=["sqlite", "postgresql", "mongodb", "cassandra"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty read store of each kind."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/views.db"
        case "postgresql":
            return f"{request.getfixturevalue('postgres_newest').dsn}?schema={fresh_schema()}"
        case "mongodb":
            return str(request.getfixturevalue("mongodb").url_of(fresh_database()))
        case _:
            return str(request.getfixturevalue("cassandra").url(fresh_keyspace()))


@asynccontextmanager
async def opened(url: str, *, read_only: bool = False) -> AsyncIterator[ReadStore]:
    store = await open_read_store(url, RealWorld(), read_only=read_only)
    try:
        yield store
    finally:
        await store.close()


async def filled(store: ReadStore) -> None:
    await store.prepare([MODEL])
    await store.save(
        Change(MODEL, LOG, 0, 4, 0, {key: VersionedRow(row, n + 1) for n, (key, row) in enumerate(ROWS.items())})
    )


async def spoil(url: str, store: ReadStore, what: str) -> None:
    """Do to the row 'b' what nobody should."""
    match url.partition(":")[0]:
        case "sqlite":
            done = {
                "text": "row = 'oops'",
                "other": """row = '{"name":"bob","total":77}'""",
                "misfit": """row = '{"name":"bob","total":"two"}'""",
                "copy": '"total:number" = 77',
            }
            connection = apsw.Connection(url.removeprefix("sqlite:///"))
            connection.execute(f"""update "rows of %54hings@3" set {done[what]} where key = 'b'""")
            connection.close()
        case "postgresql":
            done = {
                "text": "row = 'null'",
                "other": """row = '{"name":"bob","total":77}'""",
                "misfit": """row = '{"name":"bob","total":"two"}'""",
                "copy": '"total:bigint" = 77',
            }
            plain, _, schema = url.partition("?schema=")
            server = await asyncpg.connect(plain)
            await server.execute(f"""update "{schema}"."Things@3" set {done[what]} where key = 'b'""")
            await server.close()
        case "mongodb":
            assert isinstance(store, MongoReadStore)
            rows = store._connection.database[store._tables["Things", 3].collection]
            steps: dict[str, Any] = {
                "text": {"$set": {"json": "oops"}, "$unset": {"row": ""}},
                "other": {"$set": {"row": {"name": "bob", "total": 77}}},
                "misfit": {"$set": {"row": {"name": "bob", "total": "two"}}},
                "copy": {"$set": {"c.total:number": 77}},
            }
            await rows.update_one({"_id": "b"}, steps[what])
        case _:
            assert isinstance(store, CassandraReadStore)
            tables = store._tables["Things", 3]
            texts = {"text": "oops", "other": '{"name":"bob","total":77}', "misfit": '{"name":"bob","total":"two"}'}
            if what in texts:
                # Newer than the row that is there, or Cassandra would keep that.
                put = f"update {tables.rows} using timestamp 3 set row = ? where key = 'b'"
                await store._connection.rows(put, texts[what])
            else:
                await lose_copy(store, "name by total")


async def lose_copy(store: CassandraReadStore, access: str, timestamp: int = 2) -> None:
    """Delete one of the entries of the row 'b', as of its own version."""
    tables = store._tables["Things", 3]
    (entry,) = [each for each in tables.layout.entries("b", ROWS["b"]) if each.access == access]
    drop = f"delete from {tables.finds} using timestamp ? where access = ? and part = ? and sort_key = ? and key = 'b'"
    await store._connection.rows(drop, timestamp, entry.access, list(entry.part), entry.sort_key)


SAID = {
    "text": r"The row is (not JSON|null)\.",
    "other": r"The column total holds 2, the row says 77\.|Its copy under '.*' says otherwise\.",
    "misfit": "The row does not fit Thing: .*total",
    "copy": r"^(The column total holds 77, the row says 2\.|Its copy under 'name by total' is missing\.)$",
}
UNTOLD = "misfit"
"""What only the row type tells."""


@pytest.mark.parametrize("what", list(SAID))
async def test_corruption_is_told_in_a_sentence_and_the_other_rows_are_as_they_are(url: str, what: str) -> None:
    async with opened(url) as store, opened(url, read_only=True) as stranger:
        await filled(store)
        await spoil(url, store, what)
        for each in (store, stranger):
            listed = await each.raw_rows("Things", 3, "", 10)
            assert [key for key, _ in listed] == ["a", "b", "c", "d"]
            inspected = await each.inspect(MODEL, ["d", "b", "a", "c"])
            assert inspected.keys() == ROWS.keys()
            for found in (dict(listed), inspected):
                for n, key in enumerate(ROWS):
                    if key != "b":
                        assert found[key] == RawRow(PLAIN[key], n + 1)
                if what != UNTOLD or found is inspected or each is store:
                    assert_matches(SAID[what], found["b"].corruption)
                row = {"text": None, "copy": PLAIN["b"]}.get(what, {"name": "bob", "total": found["b"].row and 77})
                if what != UNTOLD:
                    assert found["b"].row == row
                assert found["b"].repair == 0
        assert [key for key, _ in await store.raw_rows("Things", 3, "a", 1)] == ["b"]


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


@pytest.mark.parametrize("what", list(SAID))
async def test_a_row_that_is_written_above_what_is_told_is_whole_again(url: str, what: str) -> None:
    async with opened(url) as store:
        await filled(store)
        await spoil(url, store, what)
        reported = (await store.inspect(MODEL, ["b"]))["b"]
        repaired = VersionedRow(ROWS["b"], 4, reported.repair + 1)
        await store.save(Change(MODEL, LOG, 4, 5, 0, {"b": repaired}))
        assert await store.inspect(MODEL, ["b"]) == {"b": RawRow(PLAIN["b"], 4, reported.repair + 1)}
        assert (await store.load(MODEL, ["b"]))["b"].row == ROWS["b"]
        assert await found_rows(store, MODEL, {"name": "bob"}, order_by="total") == [("b", ROWS["b"])]


async def test_a_row_that_is_no_json_keeps_nobody_from_starting_and_whoever_needs_it_is_told_the_cure(url: str) -> None:
    if url.startswith("postgresql"):
        pytest.skip("what is no JSON cannot be stored there")
    rows = {"b": ROWS["b"]}
    bare = msgspec.structs.replace(MODEL, find_by=())
    async with opened(url) as store:
        await store.prepare([MODEL])
        await store.save(Change(MODEL, LOG, 0, 4, 0, {key: VersionedRow(row, 2) for key, row in rows.items()}))
        await spoil(url, store, "text")
        if not url.startswith("cassandra"):
            # There, tables are built again for other accesses, and a row must not get lost on the way.
            await store.prepare([bare])
    async with opened(url) as store:
        await store.prepare([MODEL])
        for reading in (store.load(MODEL, ["b"]), got(store, "b")):
            with pytest.raises(Unavailable, match=r"A stored row of 'Things' is corrupt: .*`twofold audit"):
                await reading
        reported = (await store.inspect(MODEL, ["b"]))["b"]
        await store.save(Change(MODEL, LOG, 4, 5, 0, {"b": VersionedRow(ROWS["b"], 4, reported.repair + 1)}))
        assert await found_rows(store, MODEL, {"name": "bob"}, order_by="total") == [("b", ROWS["b"])]
        assert (await store.inspect(MODEL, ["b"]))["b"].corruption == ""


async def got(store: ReadStore, key: str) -> Any:
    async with store.snapshot() as snapshot:
        return await snapshot.get(MODEL, key)


async def test_a_row_in_memory_that_is_no_json_is_told_of_too() -> None:
    store = MemoryReadStore()
    await filled(store)
    rows = store._tables["Things", 3].rows
    rows["b"] = VersionedRow(object(), 2)
    rows["c"] = VersionedRow(Thing("c", "two"), 3)  # type: ignore[arg-type]
    found = dict(await store.raw_rows("Things", 3, "", 10))
    assert found == await store.inspect(MODEL, list(ROWS))
    assert found["b"].row is None
    assert_matches("The row cannot be written as JSON", found["b"].corruption)
    assert_matches("The row does not fit Thing", found["c"].corruption)
    assert (found["a"], found["d"].corruption) == (RawRow(PLAIN["a"], 1), "")


@asynccontextmanager
async def on_cassandra(server: Cassandra) -> AsyncIterator[CassandraReadStore]:
    async with opened(server.url(fresh_keyspace())) as store:
        assert isinstance(store, CassandraReadStore)
        yield store


async def told_of(store: CassandraReadStore, key: str = "b") -> RawRow | None:
    """What is reported of a row, in both ways; they agree where it is listed."""
    listed = dict(await store.raw_rows("Things", 3, "", 10))
    inspected = await store.inspect(MODEL, [key])
    if key in listed:
        assert inspected[key] == listed[key]
    return inspected.get(key)


async def test_a_row_that_is_found_but_not_there_by_key_is_told_of_and_so_is_the_other_way_round(
    cassandra: Cassandra,
) -> None:
    async with on_cassandra(cassandra) as store:
        await filled(store)
        await store._connection.rows(f"delete from {store._tables['Things', 3].rows} using timestamp 2 where key = 'b'")
        alone = RawRow(PLAIN["b"], 2, 0, "It has an entry in '*', but no row by key.")
        assert await told_of(store) == alone
    async with on_cassandra(cassandra) as store:
        await filled(store)
        await lose_copy(store, "*")
        assert "b" not in dict(await store.raw_rows("Things", 3, "", 10))
        assert await told_of(store) == RawRow(PLAIN["b"], 2, 0, "Its copy under '*' is missing.")


async def test_what_a_save_that_was_interrupted_has_left_is_no_corruption_until_its_checkpoint_has_passed(
    cassandra: Cassandra,
) -> None:
    async with on_cassandra(cassandra) as store:
        await filled(store)
        tables = store._tables["Things", 3]
        newer = Thing("bob", 9)
        text = tables.layout.encode(newer)
        for entry in tables.layout.entries("b", newer):
            where = "where access = ? and part = ? and sort_key = ? and key = 'b'"
            put = f"update {tables.finds} using timestamp 6 set row = ? {where}"
            await store._connection.rows(put, text, entry.access, list(entry.part), entry.sort_key)
        assert await told_of(store) == RawRow(msgspec.json.decode(text), 6)
        await store.save(Change(MODEL, LOG, 4, 6, 0))
        reported = await told_of(store)
        assert reported is not None
        assert (reported.row, reported.position) == (PLAIN["b"], 2)
        assert "Its copy under '*' says otherwise." in reported.corruption


async def test_a_cell_that_was_written_by_hand_is_told_with_a_repair_number_that_a_repair_has_to_exceed(
    cassandra: Cassandra,
) -> None:
    async with on_cassandra(cassandra) as store:
        await filled(store)
        tables = store._tables["Things", 3]
        (entry,) = [each for each in tables.layout.entries("b", ROWS["b"]) if each.access == "* by total"]
        put = f"update {tables.finds} set row = 'by hand' where access = ? and part = ? and sort_key = ? and key = 'b'"
        await store._connection.rows(put, entry.access, list(entry.part), entry.sort_key)
        reported = await told_of(store)
        assert reported is not None
        assert reported == RawRow(PLAIN["b"], 2, reported.repair, "Its copy under '* by total' says otherwise.")
        assert reported.repair > 0
        await store.save(Change(MODEL, LOG, 4, 5, 0, {"b": VersionedRow(ROWS["b"], 4, reported.repair + 1)}))
        assert await told_of(store) == RawRow(PLAIN["b"], 4, reported.repair + 1)
        assert len(await found_rows(store, MODEL, order_by="total")) == 4


async def test_rows_that_are_being_saved_all_the_time_are_not_called_corrupt(cassandra: Cassandra) -> None:
    async with on_cassandra(cassandra) as store:
        await filled(store)
        row, position, looks = ROWS["b"], 4, 0

        async def follow() -> None:
            nonlocal row, position
            while True:
                new = Thing(f"bob {position % 3}", position % 5)
                change = {"b": VersionedRow(new, position + 1, 0, (row,))}
                if position % 7 == 0:
                    change["b"] = VersionedRow(None, position + 1, 0, (row,))
                await store.save(Change(MODEL, LOG, position, position + 1, 0, change))
                row, position = new, position + 1

        following = asyncio.create_task(follow())
        try:
            until = asyncio.get_running_loop().time() + 4
            while asyncio.get_running_loop().time() < until:
                assert [each.corruption for _, each in await store.raw_rows("Things", 3, "", 10)] in (
                    [""] * 4,
                    [""] * 3,
                )
                assert [each.corruption for each in (await store.inspect(MODEL, ["b"])).values()] in ([""], [])
                looks += 1
            assert not following.done()
        finally:
            following.cancel()
        assert looks > 3
