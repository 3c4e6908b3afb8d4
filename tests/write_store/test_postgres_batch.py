"""Appends share a call as long as the server can tell what follows from those before them, and no longer."""

from collections.abc import Sequence

import pytest

from tests.servers.postgres import Postgres
from tests.write_store.failover_helpers import opened
from tests.write_store.postgres_helpers import broken_log, fresh_log
from twofold.testing.write_store_model import append, event, kinds
from twofold.write_store.port import Append, LogRow, RowGuard, RowWrite
from twofold.write_store.postgres.batch import Call


def on(key: str, expected: int, version: int | None = None, value: bytes | None = b"1") -> Append:
    return append(event("a"), rows=[RowWrite("s", key, value, expected, version)])


def together(*batch: Append) -> int:
    """How many of a batch share its first call."""
    return Call(batch, {"a": 1}, nonce=1, seen=0, recorded_at=0).count


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        ([on("k", 0), on("other", 0), on("k", 1), on("k", 2)], 4),
        ([on("k", 0, 77), on("k", 77, 5), on("k", 5, 77)], 3),
        ([on("k", 3, value=None), on("k", 0)], 2),
        ([on("k", 0), on("k", 0), on("k", 5)], 3),
        ([on("k", 0), append(guards=[RowGuard("s", "k", 1)])], 1),
        ([append(guards=[RowGuard("s", "k", 1)]), on("k", 0)], 1),
    ],
)
def test_what_is_written_into_one_row_shares_a_call_and_what_is_guarded_by_it_does_not(
    batch: Sequence[Append], count: int
) -> None:
    assert together(*batch) == count


CHAIN = [on("k", 0, 70), on("k", 70, 71), on("k", 71, 72), on("other", 0), on("k", 72, None, None), on("k", 0, 73)]


async def test_what_is_on_top_of_a_refused_row_is_refused_and_the_rest_is_not(postgres: Postgres) -> None:
    async with opened(await fresh_log(postgres.dsn)) as store:
        assert kinds(await store.append(CHAIN)) == [1, 2, 3, 4, 5, 6]
        assert await store.rows("s") == {"k": LogRow(b"1", 73), "other": LogRow(b"1", 1)}
        late = [on("k", 9, 10), on("k", 10, 11), on("other", 1), on("k", 11, 12)]
        assert kinds(await store.append(late)) == ["Conflict", "Conflict", 7, "Conflict"]
        assert await store.rows("s") == {"k": LogRow(b"1", 73), "other": LogRow(b"1", 2)}
        # What comes after a refused one finds the row as it was before it.
        again = [on("k", 9, 10), on("k", 73, 74), on("k", 10, 11), on("k", 74, None, None), on("k", 0, 7)]
        assert kinds(await store.append(again)) == ["Conflict", 8, "Conflict", 9, 10]
        assert await store.rows("s", ["k"]) == {"k": LogRow(b"1", 7)}


async def test_a_server_that_looks_at_the_table_alone_is_found_out(postgres_newest: Postgres) -> None:
    url = await broken_log(postgres_newest.dsn, ("case when last[entry] > 0 then", "case when false then"))
    async with opened(url) as store:
        assert kinds(await store.append([on("k", 9, 10), on("k", 0, 70), on("k", 70, 71)])) == [
            "Conflict",
            1,
            "Conflict",
        ]
