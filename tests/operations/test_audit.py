"""Audits of a read model: each wrong row is found, and no right row is called wrong."""

import asyncio
from random import Random

import msgspec
import pytest

from tests.operations.audit_helpers import by_hand, counts, everything_wrong, skip_on_record, spoil, write
from tests.operations.follower_helpers import Following, serves
from tests.operations.generation_helpers import Built
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up, count, counters, total_of
from twofold.app import App
from twofold.domain.envelope import Metadata
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import InvalidMessage, Unavailable, UnknownMessage, WiringError
from twofold.operations.audit import audit
from twofold.operations.row_differences import FieldDifference
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import ReadStore, VersionedRow
from twofold.synchronization.cluster_state import ACTS
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, RowWrite


async def test_rows_that_are_wrong_are_told_from_those_that_are_right(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await everything_wrong(app, log, read_store)
    found = await audit(app, log, read_store, "totals")
    assert counts(found) == {"right": 1, "different": 3, "missing": 1, "extra": 2, "parked": 1}
    assert (found.name, found.generation, found.position, found.rows) == ("totals", 3, 5, 8)
    assert (found.wrong, found.all_right) == (6, False)
    shown = {each.key: each for each in found.sample}
    assert shown.keys() == {"other", "behind", "early", "lost", "ended", "made up"}
    assert (shown["other"].before, shown["other"].after) == (1, 1)
    assert shown["other"].fields == {"total": FieldDifference(7, 1), "trail": FieldDifference(7, 1)}
    # An update is missing: the row is older than its checkpoint allows.
    assert (shown["behind"].before, shown["behind"].after) == (1, 2)
    # What is in the row is right by chance; the position it claims is not.
    assert (shown["early"].before, shown["early"].after, shown["early"].fields) == (4, 5, {})
    assert (shown["lost"].before, shown["lost"].after) == (None, 3)
    assert (shown["ended"].before, shown["ended"].after) == (3, None)
    assert (shown["made up"].before, shown["made up"].after) == (4, None)


async def test_some_keys_are_judged_as_they_are_among_all(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await everything_wrong(app, log, read_store)
    wrong = {"other": "different", "behind": "different", "early": "different", "lost": "missing", "ended": "extra"}
    for key, kind in {**wrong, "made up": "extra", "right": "right", "parked": "parked", "never": "right"}.items():
        found = await audit(app, log, read_store, "totals", keys=[key, key])
        assert counts(found) == {kind: 1}, key
        assert found.rows == 1


@pytest.mark.parametrize("page", [1, 2, 3, 1_000])
async def test_every_row_is_looked_at_once_however_it_is_paged(app: App, log: MemoryWriteStore, page: int) -> None:
    read_store = MemoryReadStore()
    await everything_wrong(app, log, read_store)
    found = await audit(app, log, read_store, "totals", page=page)
    assert counts(found) == {"right": 1, "different": 3, "missing": 1, "extra": 2, "parked": 1}


async def test_the_sample_is_bounded(app: App, log: MemoryWriteStore) -> None:
    read_store = MemoryReadStore()
    await everything_wrong(app, log, read_store)
    assert len((await audit(app, log, read_store, "totals", sample=2)).sample) == 2


async def test_an_event_that_an_operator_skipped_is_skipped_for_that_version(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await write(app, log, Counted(["a", "b"], 1), Counted(["a", "b"], 2), Counted(["a", "b"], 3))
    await Built(log, read_store, 1, Total).save(3, {"a": (by_hand("a", 1, 3), 3), "b": (by_hand("b", 1, 2, 3), 3)})
    await serves(log, read_store, "totals", 1)
    assert counts(await audit(app, log, read_store, "totals")) == {"right": 1, "different": 1}
    for n, (version, done) in enumerate([(2, True), (1, False), (1, True)]):
        act = skip_on_record(n, done, version, read_store.identity)
        row = RowWrite(ACTS, f"{n}", msgspec.json.encode(act), 0)
        await log.append([Append(Metadata(0, "", ""), rows=(row,))])
        right = {"right": 1, "different": 1} if n < 2 else {"right": 2}
        assert counts(await audit(app, log, read_store, "totals")) == right
        assert ("right" in counts(await audit(app, log, read_store, "totals", keys=["a"]))) == (n == 2)


async def test_a_row_that_cannot_be_folded_any_more_is_wrong_and_says_where(log: MemoryWriteStore) -> None:
    def fragile(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ValueError("unlucky")
        return add_up(row, event, counter)

    app = App(counters(fragile))
    read_store = MemoryReadStore()
    await write(app, log, Counted(["a", "b"], 1), Counted(["b"], 13), Counted(["a", "b"], 2))
    await Built(log, read_store, 1, Total).save(3, {"a": (by_hand("a", 1, 2), 3), "b": (by_hand("b", 1, 13, 2), 3)})
    await serves(log, read_store, "totals", 1)
    for keys in (None, ["a", "b"]):
        found = await audit(app, log, read_store, "totals", keys=keys)
        assert counts(found) == {"right": 1, "different": 1}
        assert found.sample[0].error == "The fold fails at position 2: ValueError: unlucky"


async def test_a_key_that_cannot_be_folded_any_more_does_not_stop_the_audit_of_the_others(
    log: MemoryWriteStore,
) -> None:
    def fragile(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ValueError("unlucky")
        return add_up(row, event, counter)

    # A follower would wait before this event with everything; the rows were made before the fold was changed.
    waits = Projection("totals", fragile, key=CounterId, parks="partition")
    app = App(Module("m", events=[Counted, Ended], projections=[waits]))
    read_store = MemoryReadStore()
    await write(app, log, Counted(["a", "b"], 1), Counted(["b"], 13), Counted(["a", "b"], 2))
    await Built(log, read_store, 1, Total).save(3, {"a": (by_hand("a", 1, 2), 3), "b": (by_hand("b", 1, 13, 2), 3)})
    await serves(log, read_store, "totals", 1)
    assert counts(await audit(app, log, read_store, "totals")) == {"right": 1, "different": 1}


async def test_keys_that_no_tag_stands_for_are_audited_alike(log: MemoryWriteStore) -> None:
    def by_size(event: Counted | Ended) -> list[str]:
        return [f"size-{event.by % 3}", "all"] if isinstance(event, Counted) else []

    app = App(counters(add_up, key=by_size))
    read_store = MemoryReadStore()
    await write(app, log, *(Counted(["c"], n) for n in range(1, 8)))
    following = await Following(app, log, read_store, Random(1), 1).prepare()
    await following.catch_up()
    await serves(log, read_store, "totals", 1)
    assert counts(await audit(app, log, read_store, "totals")) == {"right": 4}
    spoil(read_store, 1, "size-1", lambda kept: VersionedRow(Total("x", 1), kept.position))
    assert counts(await audit(app, log, read_store, "totals")) == {"right": 3, "different": 1}
    found = await audit(app, log, read_store, "totals", keys=["size-1", "all", "never"])
    assert counts(found) == {"right": 2, "different": 1}


async def test_what_cannot_be_audited_is_refused_with_a_reason(app: App, log: MemoryWriteStore) -> None:
    read_store = MemoryReadStore()
    with pytest.raises(UnknownMessage, match=r"no projection 'x'\. There are: totals"):
        await audit(app, log, read_store, "x")
    with pytest.raises(Unavailable, match="Version 1 of 'totals' has not been built yet"):
        await audit(app, log, read_store, "totals")
    await serves(log, read_store, "totals", 1, version=2)
    with pytest.raises(Unavailable, match="Version 1 of 'totals' has not been built yet"):
        await audit(app, log, read_store, "totals")
    await serves(log, read_store, "totals", 1)
    await Built(log, read_store, 1, Total).save(0)
    for key in ("", "x" * 1_025):
        with pytest.raises(InvalidMessage, match="A key has 1 to 1024 characters"):
            await audit(app, log, read_store, "totals", keys=[key])
    live = App(
        Module("m", events=[Counted, Ended], projections=[Projection("t", add_up, key=CounterId, lifecycle="live")])
    )
    with pytest.raises(InvalidMessage, match="'t' is live: it is folded for each query"):
        await audit(live, log, read_store, "t")


async def test_inline_rows_are_audited_by_key_beside_commands() -> None:
    inline = Projection("totals", add_up, key=CounterId, lifecycle="inline")
    module = Module("counters", events=[Counted, Ended], decisions=[count], projections=[inline], queries=[total_of])
    async with App(module, write_store="memory:", read_store="memory:") as app:
        write_store, read_store = app._running.write_store, app._running.read_store  # type: ignore[union-attr]
        for n in range(20):
            await app.send(Count([f"c{n % 3}", "hot"], n + 1))
        await app.send(Count(["c2"], 0))

        async def load() -> None:
            for n in range(100_000):
                await app.send(Count(["hot"], n % 9))
                await asyncio.sleep(0)

        loading = asyncio.create_task(load())
        for _ in range(10):
            keys = ["c0", "c1", "c2", "hot", "never"]
            assert counts(await audit(app, write_store, read_store, "totals", keys=keys)) == {"right": 5}
            await asyncio.sleep(0)
        space = "inline:1:totals"
        stored = await write_store.rows(space, ["c0", "c1"])
        wrong = [
            RowWrite(space, "c0", b'{"counter":"c0","total":1,"trail":1}', stored["c0"].version),
            RowWrite(space, "c1", None, stored["c1"].version),
            RowWrite(space, "c2", b'{"counter":"c2","total":1,"trail":1}', 0),
        ]
        await write_store.append([Append(Metadata(0, "", ""), rows=tuple(wrong))])
        found = await audit(app, write_store, read_store, "totals", keys=keys)
        assert counts(found) == {"right": 2, "different": 1, "missing": 1, "extra": 1}
        assert found.sample[0].fields["total"] == FieldDifference(1, sum(n + 1 for n in range(0, 20, 3)))
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        with pytest.raises(InvalidMessage, match="'totals' is inline: its rows are audited by key"):
            await audit(app, write_store, read_store, "totals")
        with pytest.raises(InvalidMessage, match="no follower can repair them"):
            await audit(app, write_store, read_store, "totals", keys=["c0"], repair=app.projections.repair)
    with pytest.raises(Unavailable, match="version 1 of 'totals' are not stored with the log"):
        await audit(App(module), MemoryWriteStore(), read_store, "totals", keys=["c0"])


async def test_an_event_whose_key_cannot_be_told_any_more_is_named(log: MemoryWriteStore) -> None:
    def no_key(event: Counted | Ended) -> str:
        raise KeyError("gone")

    read_store = MemoryReadStore()
    app = App(counters(add_up, key=no_key))
    await write(app, log, Counted(["a"], 1))
    await Built(log, read_store, 1, Total).save(1)
    await serves(log, read_store, "totals", 1)
    for keys in (None, ["a"]):
        with pytest.raises(
            WiringError, match="its key for the 'counted' event at position 1 fails with KeyError: 'gone'"
        ):
            await audit(app, log, read_store, "totals", keys=keys)
