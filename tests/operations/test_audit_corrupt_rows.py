"""Audits of corrupt rows: rows that cannot be read, or that do not agree with their columns."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.operations.audit_helpers import by_hand, counts, spoil, write
from tests.operations.follower_helpers import Following, serves
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, count
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.operations.audit import audit
from twofold.operations.compare import compare
from twofold.operations.row_differences import FieldDifference
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import RawRow, ReadModel, VersionedRow
from twofold.stores import open_read_store, open_write_store
from twofold.synchronization.cluster_state import OperatorAction
from twofold.write_store.memory import MemoryWriteStore


class CorruptibleReadStore(MemoryReadStore):
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


async def corrupt_row(app: App, log: MemoryWriteStore) -> tuple[CorruptibleReadStore, Following]:
    """Rows of which three are damaged: one without events, one whose JSON is right."""
    read_store = CorruptibleReadStore()
    await write(app, log, Counted(["a", "b", "c", "d"], 1), Counted(["b"], 2), Counted(["other"], 1))
    following = await Following(app, log, read_store, Random(1), 1).prepare()
    await serves(log, read_store, "totals", 1)
    await following.catch_up()
    read_store._tables["totals", 1].rows["made up"] = VersionedRow(by_hand("made up", 9), 3)
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
async def test_the_columns_that_finds_read_are_compared_with_the_row_whatever_its_fields_are_called_in_json(
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
async def test_a_corrupt_row_is_wrong_whatever_it_says_and_the_others_are_audited(
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


async def test_a_corrupt_row_is_repaired_and_if_that_does_not_help_the_result_says_what_does(
    app: App, log: MemoryWriteStore
) -> None:
    read_store, following = await corrupt_row(app, log)
    owner = following.projector(WHOLE)
    at = await owner.open()
    asked: list[str] = []

    async def repair(name: str, key: str) -> object:
        asked.append(key)
        if key == "made up":
            return OperatorAction(
                what="repair", name=name, key=key, actor=None, at=0, done=False, outcome="It cannot be folded."
            )
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


async def test_a_corrupt_row_in_one_of_two_generations_differs_at_any_position(app: App, log: MemoryWriteStore) -> None:
    read_store, following = await corrupt_row(app, log)
    following.model = msgspec.structs.replace(following.model, generation=2)
    await (await following.prepare()).catch_up(1)
    found = await compare(log, read_store, "totals", 1, 2, app.world, row=Total, patience=0.0)
    reported = msgspec.structs.asdict(found)
    assert {name: reported[name] for name in ("equal", "different", "only_old", "undecided")} == {
        "equal": 2,
        "different": 2,
        "only_old": 1,
        "undecided": 1,
    }
    assert {each.key for each in found.sample if each.error} == {"b", "c", "made up"}
