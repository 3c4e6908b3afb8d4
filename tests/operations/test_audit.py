"""Auditing a read model: what is wrong is found and repaired, and nothing that is right is called wrong, under load."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.operations.follower_helpers import Following, JitteryLog, JitteryViews, Log, serves, turns
from tests.operations.generation_helpers import Built
from tests.sample_domains.counter_app_helpers import app_in, folded, settled
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up, count, counters, total_of
from twofold.app import App
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Metadata
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Conflict, InvalidMessage, Unavailable, UnknownMessage, WiringError
from twofold.operations.audit import AuditResult, audit
from twofold.operations.compare import compare
from twofold.operations.key_folds import KeyFolds
from twofold.operations.row_differences import FieldDifference
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import Parked, RawRow, ReadModel, ReadStore, VersionedRow
from twofold.settings import Settings
from twofold.stores import open_read_store, open_write_store
from twofold.synchronization.cluster_state import ACTS, OperatorAction
from twofold.synchronization.projector import Projector
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, RowWrite, Slice, WriteStore

KEYS = [f"c{n}" for n in range(12)]


def counts(found: AuditResult) -> dict[str, int]:
    """Everything that is not 0, by name."""
    told: dict[str, Any] = msgspec.to_builtins(found)
    left_out = ("name", "generation", "position", "rows", "sample", "failures")
    return {name: told[name] for name in told if name not in left_out and told[name]}


async def write(app: App, write_store: WriteStore, *events: object) -> None:
    """Let these events be in the log."""
    for event in events:
        head = (await write_store.read(NO_EVENTS)).head
        new = app.events.encode(event, f"c{head}", 0)
        await write_store.append([Append(Metadata(head, f"c{head}", f"c{head}"), (new,))])


def by_hand(counter: str, *by: int) -> Total:
    """The row of a counter that was counted on so."""
    row: Total | None = None
    for each in by:
        row = add_up(row, Counted([counter], each), counter)
    assert row is not None
    return row


class Group(msgspec.Struct, frozen=True):
    members: frozenset[str]
    trail: list[int]


class GroupAsStored(msgspec.Struct, frozen=True):
    members: list[str]
    trail: list[int]


def gather(row: Group | None, event: Counted, counter: CounterId) -> Group:
    before = row or Group(frozenset(), [])
    return Group(before.members | {f"m{event.by}"}, [*before.trail, event.by])


@pytest.fixture
def log() -> MemoryWriteStore:
    return MemoryWriteStore()


@pytest.fixture
def app() -> App:
    return App(counters())


# -------------------------------------------------------------------------------------------------- what is found wrong


async def everything_wrong(app: App, log: MemoryWriteStore, read_store: ReadStore) -> None:
    """A read model with one row of each kind."""
    await write(app, log, Counted(["right", "other", "behind", "lost"], 1), Counted(["behind", "right"], 2))
    await write(app, log, Counted(["ended", "parked", "lost"], 4), Ended(["ended"]), Counted(["early"], 5))
    rows: dict[str, tuple[Any, int]] = {
        "right": (by_hand("right", 1, 2), 2),
        "other": (by_hand("other", 7), 1),
        "behind": (by_hand("behind", 1), 1),
        "ended": (by_hand("ended", 4), 3),
        "made up": (by_hand("made up", 9), 4),
        "early": (by_hand("early", 5), 4),
    }
    parked = {"parked": Parked("parked", 3, "ValueError: no", 0)}
    await Built(log, read_store, 3, Total).save(5, rows, parked)
    await serves(log, read_store, "totals", 3)


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


async def test_what_operators_had_passed_over_is_passed_over_for_the_version_they_said_it_of(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    await write(app, log, Counted(["a", "b"], 1), Counted(["a", "b"], 2), Counted(["a", "b"], 3))
    await Built(log, read_store, 1, Total).save(3, {"a": (by_hand("a", 1, 3), 3), "b": (by_hand("b", 1, 2, 3), 3)})
    await serves(log, read_store, "totals", 1)
    assert counts(await audit(app, log, read_store, "totals")) == {"right": 1, "different": 1}
    for n, (version, done) in enumerate([(2, True), (1, False), (1, True)]):
        act = OperatorAction("skip", "totals", "a", None, n, done, "", 1, version, 2, read_store.identity)
        row = RowWrite(ACTS, f"{n}", msgspec.json.encode(act), 0)
        await log.append([Append(Metadata(0, "", ""), rows=(row,))])
        right = {"right": 1, "different": 1} if n < 2 else {"right": 2}
        assert counts(await audit(app, log, read_store, "totals")) == right
        assert ("right" in counts(await audit(app, log, read_store, "totals", keys=["a"]))) == (n == 2)


async def test_a_row_that_can_not_be_folded_any_more_is_wrong_and_says_where(log: MemoryWriteStore) -> None:
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


async def test_one_key_that_can_not_be_folded_any_more_does_not_keep_the_audit_from_the_others(
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


async def test_a_field_that_is_not_stored_is_missed_although_it_has_a_default(app: App, log: MemoryWriteStore) -> None:
    class OnlyName(msgspec.Struct, frozen=True):
        counter: str

    read_store = MemoryReadStore()
    await write(app, log, Counted(["a"], 0))
    await Built(log, read_store, 1, OnlyName).save(1, {"a": (OnlyName("a"), 1)})
    await serves(log, read_store, "totals", 1)
    for keys in (None, ["a"]):
        found = await audit(app, log, read_store, "totals", keys=keys)
        assert counts(found) == {"different": 1}
        assert found.sample[0].fields == {"total": FieldDifference(after=0), "trail": FieldDifference(after=0)}


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


async def test_the_order_in_which_a_set_was_stored_is_no_difference(log: MemoryWriteStore) -> None:
    app = App(Module("m", events=[Counted], projections=[Projection("groups", gather, key=CounterId)]))
    read_store = MemoryReadStore()
    await write(app, log, *(Counted(["c"], n) for n in range(6)))

    backwards = GroupAsStored([f"m{n}" for n in (5, 4, 3, 2, 1, 0)], [0, 1, 2, 3, 4, 5])
    built = Built(log, read_store, 1, GroupAsStored)
    built.model = msgspec.structs.replace(built.model, name="groups")
    await built.save(6, {"c": (backwards, 6)})
    await serves(log, read_store, "groups", 1)
    assert counts(await audit(app, log, read_store, "groups")) == {"right": 1}
    assert counts(await audit(app, log, read_store, "groups", keys=["c"])) == {"right": 1}
    mixed_up = GroupAsStored(backwards.members, [5, 4, 3, 2, 1, 0])
    read_store._models["groups", 1].rows["c"] = VersionedRow(mixed_up, 6)
    assert counts(await audit(app, log, read_store, "groups")) == {"different": 1}


class Account(msgspec.Struct, frozen=True):
    owner: str
    balance: float = 0


def pay_in(row: Account | None, event: Counted, counter: CounterId) -> Account:
    """A fold that puts a whole number into a field of floats."""
    return Account(counter, int(row.balance if row else 0) + event.by)


async def test_a_whole_number_in_a_field_of_floats_is_right_however_it_is_written(log: MemoryWriteStore) -> None:
    app = App(Module("m", events=[Counted], projections=[Projection("accounts", pay_in, key=CounterId)]))
    await write(app, log, *(Counted(["a", "b", "c"], n) for n in range(1, 4)))
    read_store = MemoryReadStore()
    built = Built(log, read_store, 1, Account)
    built.model = msgspec.structs.replace(built.model, name="accounts")
    await built.save(3, {"a": (Account("a", 6), 3), "b": (Account("b", 6.0), 3), "c": (Account("c", 6.5), 3)})
    await serves(log, read_store, "accounts", 1)
    for keys in (None, ["a", "b", "c"]):
        found = await audit(app, log, read_store, "accounts", keys=keys)
        assert counts(found) == {"right": 2, "different": 1}
        assert found.sample[0].fields.keys() == {"balance"}


@dataclasses.dataclass
class Remark:
    about: str
    total: int = 0
    text: str = dataclasses.field(default="", compare=False)


def remark(row: Remark | None, event: Counted, counter: CounterId) -> Remark:
    return Remark(counter, (row.total if row else 0) + event.by, "said")


async def test_a_field_that_instances_do_not_compare_is_compared(log: MemoryWriteStore) -> None:
    app = App(Module("m", events=[Counted], projections=[Projection("remarks", remark, key=CounterId)]))
    await write(app, log, Counted(["a", "b"], 1))
    read_store = MemoryReadStore()
    built = Built(log, read_store, 1, Remark)
    built.model = msgspec.structs.replace(built.model, name="remarks")
    await built.save(1, {"a": (Remark("a", 1, "said"), 1), "b": (Remark("b", 1, "hacked"), 1)})
    await serves(log, read_store, "remarks", 1)
    for keys in (None, ["a", "b"]):
        found = await audit(app, log, read_store, "remarks", keys=keys)
        assert counts(found) == {"right": 1, "different": 1}
        assert found.sample[0].fields == {"text": FieldDifference("hacked", "said")}


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


async def test_an_event_that_has_no_key_any_more_is_named(log: MemoryWriteStore) -> None:
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


# ------------------------------------------------------------------------------------------------------------- damaged


class DamagedViews(MemoryReadStore):
    """Some rows cannot be read, or do not agree with themselves, until they are written again."""

    def __init__(self) -> None:
        super().__init__()
        self.damage: dict[str, tuple[str, bool]] = {}

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        found = await super().raw_rows(name, generation, after, limit)
        return [(key, self._seen(key, each)) for key, each in found]

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        found = await super().inspect(model, keys)
        return {key: self._seen(key, each) for key, each in found.items()}

    def _seen(self, key: str, stored: RawRow) -> RawRow:
        if key not in self.damage:
            return stored
        why, readable = self.damage[key]
        return RawRow(stored.row if readable else None, stored.position, stored.repair, why)


async def corrupt_row(app: App, log: MemoryWriteStore) -> tuple[DamagedViews, Following]:
    """Rows of which three are damaged: one without events, one whose JSON is right."""
    read_store = DamagedViews()
    await write(app, log, Counted(["a", "b", "c", "d"], 1), Counted(["b"], 2), Counted(["other"], 1))
    following = await Following(app, log, read_store, Random(1), 1).prepare()
    await serves(log, read_store, "totals", 1)
    await following.catch_up()
    read_store._models["totals", 1].rows["made up"] = VersionedRow(by_hand("made up", 9), 3)
    read_store.damage = {
        "b": ("It is no JSON.", False),
        "c": ("Its column total says 77.", True),
        "made up": ("It is no JSON.", False),
    }
    return read_store, following


class Sum(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    counter: str
    total_sum: int = 0


def sum_up(row: Sum | None, event: Counted, counter: CounterId) -> Sum:
    return Sum(counter, (row.total_sum if row else 0) + event.by - 1)


@pytest.mark.parametrize("key", ["a", "zero"])
async def test_what_finds_read_is_held_against_the_row_whatever_its_fields_are_called_in_json(
    tmp_path: Path, key: str
) -> None:
    found_by = Projection("sums", sum_up, key=CounterId, find_by=["total_sum"])
    module = Module("m", events=[Counted, Ended], decisions=[count], projections=[found_by])
    app = App(module, write_store=f"sqlite:///{tmp_path}/log.db", read_store=f"sqlite:///{tmp_path}/views.db")
    async with app:
        await app.send(Count(["a", "b"], 2))
        await app.send(Count(["zero"], 1), wait_for=["sums"])
        connection = app._running.read_store._connection  # type: ignore[union-attr]
        ((table,),) = connection.execute("select name from sqlite_schema where type = 'table' and name like 'rows of%'")
        connection.execute(f'update "{table}" set "total_sum:number" = 77 where key = ?', (key,)).fetchall()
        write_store = await open_write_store(app.settings.write_store, app.settings, app.world, read_only=True)
        read_store = await open_read_store(app.settings.read_store, app.world, read_only=True)
        for keys in (None, ["a", "b", "zero"]):
            found = await audit(app, write_store, read_store, "sums", keys=keys)
            assert counts(found) == {"right": 2, "different": 1}
            assert "column total_sum holds 77, the row says" in str(found.sample[0].error)
        await write_store.close()
        await read_store.close()


@pytest.mark.parametrize("page", [1, 2, 1_000])
async def test_a_damaged_row_is_wrong_whatever_it_says_and_keeps_nobody_from_the_others(
    app: App, log: MemoryWriteStore, page: int
) -> None:
    read_store, _ = await corrupt_row(app, log)
    for keys in (None, ["a", "b", "c", "d", "made up", "other"]):
        found = await audit(app, log, read_store, "totals", keys=keys, page=page)
        assert counts(found) == {"right": 3, "different": 2, "extra": 1}
        shown = {each.key: each for each in found.sample}
        assert (shown["b"].before, shown["b"].after, shown["b"].error) == (2, 2, "It is no JSON.")
        assert shown["b"].fields["total"] == FieldDifference(after=3)
        assert (shown["c"].fields, shown["c"].error) == ({}, "Its column total says 77.")
        assert (shown["made up"].before, shown["made up"].after) == (3, None)
        assert not found.all_right


async def test_a_damaged_row_is_repaired_and_where_that_does_not_help_the_cure_is_told(
    app: App, log: MemoryWriteStore
) -> None:
    read_store, following = await corrupt_row(app, log)
    owner = following.projector(WHOLE)
    at = await owner.open()
    asked: list[str] = []

    async def repair(name: str, key: str) -> object:
        asked.append(key)
        if key == "made up":
            return OperatorAction("repair", name, key, None, 0, False, "It cannot be folded.")
        if key == "b":
            del read_store.damage[key]
            spoil(read_store, 1, key, lambda kept: None)
        return await owner.repair(key, at)

    found = await audit(app, log, read_store, "totals", repair=repair)
    assert sorted(asked) == ["b", "c", "made up"]
    assert counts(found) == {"right": 3, "different": 2, "extra": 1, "repaired": 1, "failed": 2}
    assert sorted(found.failures) == [
        "c: Its column total says 77. A repair does not help here. Rebuild the read model.",
        "made up: It cannot be folded.",
    ]


async def test_a_damaged_row_in_one_of_two_generations_differs_at_whatever_position(
    app: App, log: MemoryWriteStore
) -> None:
    read_store, following = await corrupt_row(app, log)
    following.model = msgspec.structs.replace(following.model, generation=2)
    await (await following.prepare()).catch_up(1)
    found = await compare(log, read_store, "totals", 1, 2, app.world, row=Total, patience=0.0)
    told = msgspec.structs.asdict(found)
    assert {name: told[name] for name in ("equal", "different", "only_old", "undecided")} == {
        "equal": 2,
        "different": 2,
        "only_old": 1,
        "undecided": 1,
    }
    assert {each.key for each in found.sample if each.error} == {"b", "c", "made up"}


# ---------------------------------------------------------------------------------------------------------- under load


def spoil(
    read_store: MemoryReadStore, number: int, key: str, how: Callable[[VersionedRow], VersionedRow | None]
) -> None:
    """Change a row behind everybody's back."""
    rows = read_store._models["totals", number].rows
    spoilt = how(rows[key])
    del rows[key]
    if spoilt is not None:
        rows[key] = spoilt


def no_even_thirteen(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    """A fold that fails now and then."""
    if isinstance(event, Counted) and event.by == 3 and row is not None and row.total % 5 == 0:
        raise ValueError("not this one")
    return add_up(row, event, counter)


@pytest.mark.parametrize("loose", [False, True], ids=["transactional", "row by row"])
@pytest.mark.parametrize("seed", range(30))
async def test_an_audit_beside_events_and_followers_at_any_pace_calls_nothing_wrong_that_is_right(
    seed: int, loose: bool
) -> None:
    random = Random(seed)
    app = App(
        counters(no_even_thirteen if seed % 3 == 0 else add_up),
        settings=Settings(catch_up_page_events=random.choice([3, 7, 500])),
    )
    log, read_store = JitteryLog(random), JitteryViews(random, loose=loose)
    happening = Log(app, log, random, KEYS)
    following = await Following(app, log, read_store, random, 1, random.choice([1, 2, 5])).prepare()
    await serves(log, read_store, "totals", 1)
    await happening.happen(random.choice([0, 5, 40]))
    await following.catch_up(random.randint(0, (await log.read(NO_EVENTS)).head))

    async def load() -> None:
        for _ in range(100):
            await happening.happen(random.randint(1, 4))
            await turns(random, 40)
        await asyncio.Event().wait()

    began = (await log.read(NO_EVENTS)).head
    tasks = [asyncio.create_task(load()), asyncio.create_task(following.run())]
    looked_at = 0
    for n in range(6):
        keys = None if n % 2 else random.sample([*KEYS, "never"], 5)
        found = await audit(app, log, read_store, "totals", keys=keys, page=random.randint(2, 15))
        assert found.all_right, found
        looked_at += found.rows
    assert looked_at
    assert (await log.read(NO_EVENTS)).head > began
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("loose", [False, True], ids=["transactional", "row by row"])
@pytest.mark.parametrize("seed", range(15))
async def test_what_is_spoilt_behind_our_back_is_found_under_load_and_nothing_else(seed: int, loose: bool) -> None:
    random = Random(1_000 + seed)
    app = App(counters())
    log, read_store = JitteryLog(random), JitteryViews(random, loose=loose)
    following = await Following(app, log, read_store, random, 1, random.choice([1, 3])).prepare()
    await serves(log, read_store, "totals", 1)
    quiet = [f"q{n}" for n in range(8)]
    await write(app, log, *(Counted([key], n + 1) for n, key in enumerate(quiet)))
    await Log(app, log, random, KEYS).happen(20)
    await following.catch_up()
    spoil(read_store, 1, "q1", lambda kept: VersionedRow(Total("q1", 99), kept.position))
    spoil(read_store, 1, "q2", lambda kept: None)
    spoil(read_store, 1, "q3", lambda kept: VersionedRow(kept.row, kept.position - 1))
    read_store._models["totals", 1].rows["q9"] = VersionedRow(Total("q9", 1), 2)

    async def load() -> None:
        for _ in range(100):
            await Log(app, log, random, KEYS).happen(2)
            await turns(random, 40)
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(load()), asyncio.create_task(following.run())]
    for n in range(4):
        keys = [*quiet, "q9"] if n % 2 else None
        found = await audit(app, log, read_store, "totals", keys=keys, page=random.randint(2, 15))
        assert (found.different, found.missing, found.extra) == (2, 1, 1)
        assert {each.key for each in found.sample} == {"q1", "q2", "q3", "q9"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.timeout(300)
async def test_an_audit_beside_a_running_follower_finds_on_every_store_just_what_is_wrong(
    app: App, log: MemoryWriteStore, read_store: ReadStore
) -> None:
    random = Random(5)
    following = await Following(app, log, read_store, random, 1, 2).prepare()
    await serves(log, read_store, "totals", 1)
    quiet = [f"q{n}" for n in range(4)]
    await write(app, log, Counted(quiet, 1))
    await Log(app, log, random, KEYS).happen(30)
    await following.catch_up()
    head = (await log.read(NO_EVENTS)).head

    async def load() -> None:
        while True:
            await Log(app, log, random, KEYS).happen(1)
            await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(load()), asyncio.create_task(following.run())]
    audits = 0
    while (await log.read(NO_EVENTS)).head < head + 20 or audits < 2:
        found = await audit(app, log, read_store, "totals", page=(1_000, 5)[audits % 2])
        assert found.all_right, found
        assert found.rows >= len(quiet)
        audits += 1
        await asyncio.sleep(0.001)
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --------------------------------------------------------------------------------------------------------------- repair


def spoil_file(app: App, key: str, row: str | None) -> None:
    """Change a row in the file of a running app behind its back."""
    connection = app._running.read_store._connection  # type: ignore[union-attr]
    ((table,),) = connection.execute("select name from sqlite_schema where type = 'table' and name like '%totals%'")
    if row is None:
        connection.execute(f'delete from "{table}" where key = ?', (key,)).fetchall()
    else:
        connection.execute(f'update "{table}" set row = ? where key = ?', (row, key)).fetchall()
    assert connection.changes() == 1


async def test_repair_under_load_mends_what_is_wrong_and_loses_nothing_newer(tmp_path: Path) -> None:
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

    mended = await audit(app, log, read_store, "totals", repair=repair)
    assert counts(mended) == {"different": 1, "repaired": 1}
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


async def test_a_repair_that_fails_is_told_with_its_reason_and_keeps_nobody_else_from_being_repaired(
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


async def test_what_is_passed_over_while_an_audit_runs_is_no_finding(
    app: App, log: MemoryWriteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_store = MemoryReadStore()
    await write(app, log, *(Counted(["a"], by) for by in (1, 2, 3)))
    await Built(log, read_store, 1, Total).save(3, {"a": (by_hand("a", 1, 3), 3)})
    await serves(log, read_store, "totals", 1)
    look = KeyFolds.fold

    async def said_first(folds: KeyFolds, claims: Any) -> Any:
        act = OperatorAction("skip", "totals", "a", None, 1, True, "", 1, 1, 2, read_store.identity)
        await log.append([Append(Metadata(0, "", ""), rows=(RowWrite(ACTS, "1", msgspec.json.encode(act), 0),))])
        return await look(folds, claims)

    assert counts(await audit(app, log, read_store, "totals", keys=["a"])) == {"different": 1}
    monkeypatch.setattr(KeyFolds, "fold", said_first)
    assert counts(await audit(app, log, read_store, "totals", keys=["a"])) == {"right": 1}
