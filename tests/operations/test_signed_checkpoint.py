"""Signed checkpoints show a log that was rewritten, with all its digests and checksums computed again."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from tests.servers.postgres import Postgres
from tests.write_store.disk_helpers import command
from tests.write_store.postgres_helpers import fresh_log
from twofold.errors import Unavailable, WiringError
from twofold.operations.signed_checkpoint import SignedCheckpoint, read_checkpoint, read_key, write_checkpoint
from twofold.operations.verify import VerifyResult, checkpoint_of, verify
from twofold.world import RealWorld
from twofold.write_store.chain import chain_start, content_digest, link
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.sqlite import SqliteWriteStore

KEY = b"k" * 32
WORLD = RealWorld()
EVENTS = """
select e.position, y.name, e.version, e.envelope, e.payload from events e join event_types y on y.type_id = e.type_id
order by 1
"""


class RewrittenLog:
    """A store with nine events, and somebody who can write to its tables."""

    def __init__(self, store: SqliteWriteStore | PostgresWriteStore, place: str) -> None:
        self.store = store
        self._place = place

    async def rewrite(self, position: int, payload: bytes) -> None:
        """Change a payload, and compute the chain again from there to the head."""
        log = self.store.identity.log
        if isinstance(self.store, SqliteWriteStore):
            with sqlite3.connect(self._place) as file:
                for at, chain, changed in _linked(log, file.execute(EVENTS).fetchall(), position, payload):
                    file.execute("update events set chain = ?, payload = ? where position = ?", (chain, changed, at))
                    file.execute("update logs set chain = ?", (chain,))
            return
        url, _, schema = self._place.partition("?schema=")
        connection = await asyncpg.connect(url)
        await connection.execute(f"set session_replication_role = replica; set search_path = {schema}")
        for at, chain, changed in _linked(log, await connection.fetch(EVENTS), position, payload):
            sql = "update events set chain = $1, payload = $2 where position = $3"
            await connection.execute(sql, chain, changed, at)
            await connection.execute("update log_head set chain = $1", chain)
        await connection.close()

    async def verified(self, *checkpoints: SignedCheckpoint) -> VerifyResult:
        """What a process says that has not seen the log before: the one that wrote it stops by itself."""
        store = await self._opened()
        try:
            return await verify(store, WORLD, checkpoints=checkpoints)
        finally:
            await store.close()

    async def _opened(self) -> SqliteWriteStore | PostgresWriteStore:
        if isinstance(self.store, SqliteWriteStore):
            return SqliteWriteStore(self._place, read_only=True)
        return await PostgresWriteStore.open(self._place, read_only=True)


def _linked(log: str, rows: Any, position: int, payload: bytes) -> list[tuple[int, bytes, bytes]]:
    linked: list[tuple[int, bytes, bytes]] = []
    chain = chain_start(log)
    for at, type, version, head, stored in rows:
        changed = payload if at == position else bytes(stored)
        chain = link(chain, content_digest(type, version, bytes(head), changed))
        linked.append((at, chain, changed))
    return linked


@pytest.fixture(params=["sqlite", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RewrittenLog]:
    if request.param == "sqlite":
        place = str(tmp_path / "log.db")
        found = RewrittenLog(SqliteWriteStore(place), place)
    else:
        postgres: Postgres = request.getfixturevalue("postgres_newest")
        place = await fresh_log(postgres.dsn)
        found = RewrittenLog(await PostgresWriteStore.open(place), place)
    for number in range(9):
        await found.store.append([command(number, tag="thing:1")])
    yield found
    await found.store.close()


async def test_a_rewritten_log_fits_itself_but_not_a_signed_checkpoint(log: RewrittenLog) -> None:
    kept = await checkpoint_of(log.store, await log.verified(), WORLD, KEY)
    for number in range(10, 15):
        await log.store.append([command(number, tag="thing:1")])
    assert (await log.verified(kept)).all_right, "a log that has grown has the history of the checkpoint"
    await log.rewrite(4, b'"forged"')
    assert (await log.verified()).all_right, "it fits itself"
    result = await log.verified(kept)
    assert [damage.position for damage in result.damages] == [9]
    assert "The signed checkpoint of" in result.damages[0].message
    with pytest.raises(WiringError, match="all right"):
        await checkpoint_of(log.store, result, WORLD, KEY)


async def test_what_is_rewritten_after_a_signed_checkpoint_is_not_shown_by_it(log: RewrittenLog) -> None:
    kept = await checkpoint_of(log.store, await log.verified(), WORLD, KEY)
    await log.store.append([command(10, tag="thing:1")])
    later = await checkpoint_of(log.store, await log.verified(), WORLD, KEY)
    await log.rewrite(10, b'"forged"')
    assert (await log.verified(kept)).all_right
    assert not (await log.verified(later)).all_right


async def test_a_log_that_ends_before_a_signed_checkpoint_or_is_another_one_is_shown(log: RewrittenLog) -> None:
    kept = await checkpoint_of(log.store, await log.verified(), WORLD, KEY)
    for other, said in [
        (msgspec.structs.replace(kept, position=12), "does not hold that position"),
        (msgspec.structs.replace(kept, log="main-0"), "is of the log main-0"),
    ]:
        result = await log.verified(other)
        assert [said in damage.message for damage in result.damages] == [True]


CHECKPOINT = SignedCheckpoint("main-1", 1, 4, "00" * 32, "2026-11-30T12:00:00+00:00").signed(KEY)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    for position in (4, 5):
        written = msgspec.structs.replace(CHECKPOINT, position=position).signed(KEY)
        write_checkpoint(tmp_path / "kept.json", written)
        assert read_checkpoint(tmp_path / "kept.json", KEY) == written
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("field", ["log", "epoch", "position", "chain", "time"])
def test_a_checkpoint_with_any_other_value_is_refused(tmp_path: Path, field: str) -> None:
    value = getattr(CHECKPOINT, field)
    changed = msgspec.structs.replace(CHECKPOINT, **{field: value + 1 if isinstance(value, int) else f"{value}0"})
    write_checkpoint(tmp_path / "kept.json", changed)
    with pytest.raises(WiringError, match="not signed with this key"):
        read_checkpoint(tmp_path / "kept.json", KEY)


def test_a_checkpoint_of_another_key_or_form_and_a_short_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_checkpoint(path, CHECKPOINT)
    with pytest.raises(WiringError, match="not signed with this key"):
        read_checkpoint(path, b"x" * 32)
    path.write_text('{"log": "main-1"}')
    with pytest.raises(WiringError, match="is not a signed checkpoint"):
        read_checkpoint(path, KEY)
    (tmp_path / "key").write_bytes(b" " * 40 + b"0123\n")
    with pytest.raises(WiringError, match="has 4 bytes"):
        read_key(tmp_path / "key")
    with pytest.raises(Unavailable, match="cannot be read"):
        read_key(tmp_path / "missing")
