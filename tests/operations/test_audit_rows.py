"""Audits compare rows by the meaning of their type: sets, floats, defaults, fields that `==` leaves out."""

import dataclasses

import msgspec

from tests.operations.audit_helpers import counts, write
from tests.operations.follower_helpers import serves
from tests.operations.generation_helpers import Built
from tests.sample_domains.counters import Counted, CounterId
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.operations.audit import audit
from twofold.operations.row_differences import FieldDifference
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import VersionedRow
from twofold.write_store.memory import MemoryWriteStore


class Group(msgspec.Struct, frozen=True):
    members: frozenset[str]
    trail: list[int]


class GroupAsStored(msgspec.Struct, frozen=True):
    members: list[str]
    trail: list[int]


def gather(row: Group | None, event: Counted, counter: CounterId) -> Group:
    before = row or Group(frozenset(), [])
    return Group(before.members | {f"m{event.by}"}, [*before.trail, event.by])


class Account(msgspec.Struct, frozen=True):
    owner: str
    balance: float = 0


def pay_in(row: Account | None, event: Counted, counter: CounterId) -> Account:
    """A fold that puts a whole number into a field of floats."""
    return Account(counter, int(row.balance if row else 0) + event.by)


@dataclasses.dataclass
class Remark:
    about: str
    total: int = 0
    text: str = dataclasses.field(default="", compare=False)


def remark(row: Remark | None, event: Counted, counter: CounterId) -> Remark:
    return Remark(counter, (row.total if row else 0) + event.by, "said")


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
    read_store._tables["groups", 1].rows["c"] = VersionedRow(mixed_up, 6)
    assert counts(await audit(app, log, read_store, "groups")) == {"different": 1}


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
