"""Repairs during an audit: what is wrong is repaired, and no late write undoes it."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.operations.audit_helpers import by_hand, counts, everything_wrong, skip_on_record, write
from tests.operations.follower_helpers import Following, serves
from tests.operations.generation_helpers import Built
from tests.sample_domains.counter_app_helpers import app_in, folded, settled
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up, counters
from twofold.app import App
from twofold.domain.envelope import Metadata
from twofold.errors import Conflict, Unavailable
from twofold.operations.audit import audit
from twofold.operations.key_folds import KeyFolds
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import ReadStore
from twofold.stores import open_read_store, open_write_store
from twofold.synchronization.cluster_state import ACTS
from twofold.synchronization.projector import Projector
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, RowWrite, Slice


def spoil_file(app: App, key: str, row: str | None) -> None:
    """Change a row in the file of a running app behind its back."""
    connection = app._running.read_store._connection  # type: ignore[union-attr]
    ((table,),) = connection.execute("select name from sqlite_schema where type = 'table' and name like '%totals%'")
    if row is None:
        connection.execute(f'delete from "{table}" where key = ?', (key,)).fetchall()
    else:
        connection.execute(f'update "{table}" set row = ? where key = ?', (row, key)).fetchall()
    assert connection.changes() == 1


async def test_a_repair_under_load_corrects_what_is_wrong_and_loses_nothing_newer(tmp_path: Path) -> None:
    app = app_in(tmp_path)
    async with app:
        write_store = await open_write_store(app.settings.write_store, app.settings, app.world, read_only=True)
        read_store = await open_read_store(app.settings.read_store, app.world, read_only=True)
        for n in range(10):
            await app.send(Count([f"quiet{n}", f"hot{n % 2}"], n + 1))
        await settled(app)

        async def load() -> None:
            for n in range(100_000):
                await app.send(Count([f"hot{n % 2}", f"warm{n % 20}"], n % 7 + 1))
                await asyncio.sleep(0)

        loading = asyncio.create_task(load())
        repaired = 0
        for n in range(3):
            spoil_file(app, f"quiet{n}", None)
            spoil_file(app, f"quiet{n + 3}", '{"counter":"nobody"}')
            spoil_file(app, "hot0", '{"counter":"nobody","total":-1}')
            found = await audit(app, write_store, read_store, "totals", repair=app.projections.repair, page=3)
            assert found.all_right, found
            assert (found.missing, found.failed, found.failures) == (1, 0, [])
            # The hot row may have been folded on, and saved over what was spoilt, before it was looked at.
            assert found.repaired in (2, 3)
            repaired += found.repaired
            again = await audit(app, write_store, read_store, "totals")
            assert counts(again) == {"right": again.rows}
        assert repaired == len(await app.projections.actions("totals"))
        assert not loading.done()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        assert await settled(app) == await folded(app)
        await write_store.close()
        await read_store.close()
    async with app_in(tmp_path) as app:
        assert await settled(app) == await folded(app)


def off_by_one(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    """A fold with a mistake."""
    right = add_up(row, event, counter)
    return right and Total(right.counter, right.total + 1, right.trail)


async def test_no_replay_and_no_follower_that_lost_its_lease_undoes_a_repair(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await serves(log, read_store, "totals", 1)
    await write(app, log, Counted(["a", "b"], 1), Counted(["a"], 2), Ended(["b"]))
    wrong = App(counters(off_by_one)).wiring.projections["totals"]
    following = await Following(app, log, read_store, Random(3), 1).prepare()
    right, following.projection = following.projection, wrong

    async def page(after: int) -> Slice:
        return await log.read(zombie.query, after)

    def follower() -> Projector:
        return following.projector(WHOLE)

    zombie = follower()
    await zombie.open()
    await zombie.apply(await page(0), 0)
    found = await audit(app, log, read_store, "totals")
    assert counts(found) == {"different": 1}

    following.projection = right
    owner = follower()
    at = await owner.open()

    async def repair(name: str, key: str) -> str:
        return await owner.repair(key, at)

    repaired = await audit(app, log, read_store, "totals", repair=repair)
    assert counts(repaired) == {"different": 1, "repaired": 1}
    await write(app, log, Counted(["a", "b"], 3))
    # It was paused, with the wrong rows in its memory, and wakes up.
    with pytest.raises(Conflict):
        await zombie.apply(await page(at), at)
    assert (await audit(app, log, read_store, "totals")).all_right
    await owner.apply(await page(at), at)
    assert counts(await audit(app, log, read_store, "totals")) == {"right": 2}
    for _ in range(2):
        # Everything once more, as after a crash between rows and checkpoint.
        again = follower()
        await again.apply(await page(0), await again.open())
        with pytest.raises(Conflict):
            await zombie.apply(await page(at), at)
        assert counts(await audit(app, log, read_store, "totals")) == {"right": 2}
        assert counts(await audit(app, log, read_store, "totals", keys=["a", "b"])) == {"right": 2}


async def test_a_repair_that_fails_is_reported_with_its_reason_and_the_others_are_repaired(
    app: App, log: MemoryWriteStore
) -> None:
    read_store = MemoryReadStore()
    await everything_wrong(app, log, read_store)
    owner = (await Following(app, log, read_store, Random(1), 3).prepare()).projector(WHOLE)
    at = await owner.open()
    while await owner.retry_pending(at) is not None:
        assert owner._parked

    async def repair(name: str, key: str) -> None:
        assert name == "totals"
        if key == "lost":
            raise Unavailable("Nobody came to it.")
        if key != "other":
            await owner.repair(key, at)

    found = await audit(app, log, read_store, "totals", repair=repair)
    assert counts(found) == {"right": 2, "different": 3, "missing": 1, "extra": 2, "repaired": 4, "failed": 2}
    assert sorted(found.failures) == [
        "lost: Nobody came to it.",
        "other: The row still differs. A repair does not help here. Rebuild the read model.",
    ]
    assert not found.all_right


async def test_an_event_that_is_skipped_during_an_audit_is_not_a_difference(
    app: App, log: MemoryWriteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_store = MemoryReadStore()
    await write(app, log, *(Counted(["a"], by) for by in (1, 2, 3)))
    await Built(log, read_store, 1, Total).save(3, {"a": (by_hand("a", 1, 3), 3)})
    await serves(log, read_store, "totals", 1)
    look = KeyFolds.fold

    async def said_first(folds: KeyFolds, claims: Any) -> Any:
        act = skip_on_record(1, True, 1, read_store.identity)
        await log.append([Append(Metadata(0, "", ""), rows=(RowWrite(ACTS, "1", msgspec.json.encode(act), 0),))])
        return await look(folds, claims)

    assert counts(await audit(app, log, read_store, "totals", keys=["a"])) == {"different": 1}
    monkeypatch.setattr(KeyFolds, "fold", said_first)
    assert counts(await audit(app, log, read_store, "totals", keys=["a"])) == {"right": 1}
