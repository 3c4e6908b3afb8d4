"""Payloads in a SQLite log are packed with dictionaries, and come back as they were written."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS, EventQuery, QueryItem
from twofold.domain.events import NewEvent
from twofold.errors import Unavailable
from twofold.operations.verify import verify
from twofold.world import RealWorld
from twofold.write_store.port import Append
from twofold.write_store.sqlite import SqliteWriteStore, packing
from twofold.write_store.sqlite.reader import LogReader
from twofold.write_store.sqlite.writer import LogWriter

Kind = tuple[str, int]
"""Type and version of an event."""


def order(number: int) -> bytes:
    return b'{"order_id":"o-%05d","placed_on":"2026-11-30","currency":"EUR","lines":[{"quantity":1}]}' % number


ORDERS = [order(n) for n in range(100)]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_SAMPLES", 20)


async def write(store: SqliteWriteStore, payloads: Sequence[bytes], kind: Kind = ("order-placed", 1)) -> None:
    for payload in payloads:
        command_id = RealWorld().new_id()
        event = NewEvent(f"{command_id}.0", *kind, ("order:1",), payload)
        await store.append([Append(Metadata(1, command_id, command_id), (event,), (), command_id)])


async def payloads_in(store: SqliteWriteStore) -> list[bytes]:
    return [event.payload for event in (await store.read(ALL_EVENTS)).events]


def stored_in(path: Path) -> list[bytes]:
    connection = apsw.Connection(str(path))
    try:
        return [payload for (payload,) in connection.execute("select payload from events order by position")]
    finally:
        connection.close()


def change(path: Path, sql: str, *bound: bytes | int) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(sql, bound)
    connection.close()


async def problems(path: Path) -> list[str]:
    store = SqliteWriteStore(path, read_only=True)
    try:
        return [damage.message for damage in (await verify(store, RealWorld())).damages]
    finally:
        await store.close()


KINDS = st.sampled_from([("order-placed", 1), ("order-placed", 2), ("note", 1)])
PAYLOADS = st.one_of(st.integers(0, 99).map(order), st.binary(max_size=40), st.just(b"x" * 9_000))
WRITES = st.lists(st.tuples(KINDS, st.lists(PAYLOADS, min_size=1, max_size=30), st.booleans()), max_size=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WRITES)
async def test_every_payload_comes_back_as_it_was_written_through_restarts(
    writes: list[tuple[Kind, list[bytes], bool]],
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        store, written = SqliteWriteStore(path), list[bytes]()
        for kind, payloads, restart in writes:
            await write(store, payloads, kind)
            written += payloads
            if restart:
                await store.close()
                store = SqliteWriteStore(path)
        assert await payloads_in(store) == written
        assert (await verify(store, RealWorld())).all_right
        await store.close()


async def test_payloads_that_are_alike_take_less_than_half_of_their_bytes(tmp_path: Path) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await write(store, ORDERS)
    await store.close()
    stored = stored_in(tmp_path / "log.db")
    assert stored[:20] == ORDERS[:20], "there was no dictionary yet"
    assert all(len(packed) < len(payload) / 2 for packed, payload in zip(stored[20:], ORDERS[20:], strict=True))


async def test_a_dictionary_is_made_from_what_other_processes_wrote_before(tmp_path: Path) -> None:
    for n in range(25):
        store = SqliteWriteStore(tmp_path / "log.db")
        await write(store, [order(n)])
        await store.close()
    assert len(stored_in(tmp_path / "log.db")[24]) < len(order(24)) / 2


async def test_payloads_of_which_little_would_be_saved_are_stored_as_they_are(tmp_path: Path) -> None:
    short = [b'{"n":%d}' % n for n in range(100)]
    store = SqliteWriteStore(tmp_path / "log.db")
    await write(store, short)
    await store.close()
    assert stored_in(tmp_path / "log.db") == short


async def test_a_reader_that_was_open_before_the_dictionary_was_made_reads_what_is_packed_with_it(
    tmp_path: Path,
) -> None:
    store = SqliteWriteStore(tmp_path / "log.db")
    await write(store, ORDERS[:5])
    reader = SqliteWriteStore(tmp_path / "log.db", read_only=True)
    assert await payloads_in(reader) == ORDERS[:5]
    await write(store, ORDERS[5:])
    assert await payloads_in(reader) == ORDERS
    await reader.close()
    await store.close()


async def test_a_dictionary_whose_commit_failed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LogWriter, *_: int) -> None:
        raise apsw.FullError("database or disk is full")

    store = SqliteWriteStore(tmp_path / "log.db")
    await write(store, ORDERS[:19])
    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "_prune", full)
        with pytest.raises(Unavailable):
            await write(store, ORDERS[19:20])
    await write(store, ORDERS[19:])
    assert await payloads_in(store) == ORDERS
    await store.close()


@pytest.fixture
async def packed(tmp_path: Path) -> Path:
    store = SqliteWriteStore(tmp_path / "log.db")
    await write(store, ORDERS)
    await store.close()
    return tmp_path / "log.db"


async def test_with_one_damaged_copy_of_a_dictionary_all_is_read_and_verify_names_the_copy(packed: Path) -> None:
    change(packed, "update payload_dictionaries set content = x'00' where copy = 0")
    store = SqliteWriteStore(packed, read_only=True)
    assert await payloads_in(store) == ORDERS
    await store.close()
    assert await problems(packed) == [
        "Copy 0 of dictionary 1 of event type 1 is damaged.",
        "Dictionary 1 of event type 1 has 1 sound copies instead of 2.",
    ]


async def test_without_a_sound_copy_of_a_dictionary_what_is_packed_with_it_is_not_served(packed: Path) -> None:
    change(packed, "update payload_dictionaries set content = x'00'")
    store = SqliteWriteStore(packed, read_only=True)
    assert [event.payload for event in (await store.read(ALL_EVENTS, limit=20)).events] == ORDERS[:20]
    with pytest.raises(Unavailable, match=r"damaged at position 21\. Dictionary 1 of its type.*twofold verify"):
        await store.read(ALL_EVENTS, 20, limit=1)
    await store.close()
    found = await problems(packed)
    assert found[0].startswith("The event at 21 does not fit the chain")


async def test_where_both_copies_of_a_dictionary_are_damaged_a_new_one_is_made_under_another_number(
    packed: Path,
) -> None:
    change(packed, "update payload_dictionaries set content = x'00'")
    # Events that it cannot read would keep the log from being opened for writing.
    change(packed, "delete from event_tags where position > 20")
    change(packed, "delete from events where position > 20")
    change(packed, "update logs set position = 20, chain = (select chain from events where position = 20)")
    store = SqliteWriteStore(packed)
    more = [order(n) for n in range(200, 240)]
    await write(store, more)
    assert await payloads_in(store) == ORDERS[:20] + more
    await store.close()
    assert len(stored_in(packed)[-1]) < len(order(1)) / 2


async def test_the_number_of_a_dictionary_whose_rows_are_lost_is_not_used_again(packed: Path) -> None:
    change(packed, "delete from payload_dictionaries")
    store = SqliteWriteStore(packed, read_only=True)
    with pytest.raises(Unavailable, match="position 21"):
        await store.read(ALL_EVENTS)
    await store.close()
    connection = apsw.Connection(str(packed))
    packer = packing.PayloadPacker(connection, 1)
    for n in range(100):
        packer.pack(1, 2, order(n))
        packer.add_dictionaries()
    connection.close()
    assert packer._numbers == {1: 1}


@pytest.mark.parametrize("value", ["'text'", "cast(x'ff' as text)", "7", "0.5", "''"])
async def test_a_payload_that_damage_made_another_kind_of_value_is_not_served(packed: Path, value: str) -> None:
    change(packed, "pragma writable_schema = on; update sqlite_schema set sql = replace(sql, 'strict', '')")
    change(packed, f"update events set payload = {value} where position = 41")
    store = SqliteWriteStore(packed, read_only=True)
    with pytest.raises(Unavailable, match="damaged"):
        await store.read(ALL_EVENTS)
    await store.close()
    connection = apsw.Connection(str(packed))
    packing.PayloadPacker(connection, 1).pack(1, 3, order(1))
    connection.close()


async def test_a_dictionary_whose_commit_failed_is_not_used_though_clearing_up_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LogWriter, *_: int) -> None:
        raise apsw.FullError("database or disk is full")

    def busy(self: LogReader) -> dict[str, int]:
        raise apsw.BusyError("database is locked")

    store = SqliteWriteStore(tmp_path / "log.db")
    await write(store, ORDERS[:19])
    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "_prune", full)
        patched.setattr(LogReader, "refresh_types", busy)
        for payload in ORDERS[19:21]:
            with pytest.raises(Unavailable):
                await write(store, [payload])
            found = await store.read(EventQuery((QueryItem(("order-placed",)),)))
            assert len(found.events) == 19, "readers still know the types"
    await write(store, ORDERS[19:])
    assert await payloads_in(store) == ORDERS
    await store.close()


async def test_every_flipped_bit_of_a_packed_payload_is_found(packed: Path) -> None:
    stored = stored_in(packed)[40]
    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        change(packed, "update events set payload = ? where position = 41", bytes(flipped))
        found = await problems(packed)
        assert found, f"bit {bit}"
        assert "41" in found[0]


async def test_a_payload_that_does_not_end_where_it_must_is_not_served(packed: Path) -> None:
    stored = stored_in(packed)[40]
    for damaged in (stored[:-2], stored + b"x", b"\x08" + stored[1:]):
        change(packed, "update events set payload = ? where position = 41", damaged)
        store = SqliteWriteStore(packed, read_only=True)
        with pytest.raises(Unavailable, match="damaged at position 41"):
            await store.read(ALL_EVENTS)
        await store.close()
