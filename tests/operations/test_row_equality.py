"""When two stored rows are equal: their JSON decides, not the `==` of their type."""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from enum import IntEnum
from random import Random
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest

from tests.operations.generation_helpers import Built, log_of
from twofold.operations.compare import compare
from twofold.operations.row_differences import FieldDifference
from twofold.operations.row_equality import rows_equal
from twofold.read_store.memory import MemoryReadStore
from twofold.world import RealWorld
from twofold.write_store.memory import MemoryWriteStore

T = TypeVar("T")


class Identical(msgspec.Struct, eq=False):
    members: frozenset[str]
    amount: int = 0


@dataclasses.dataclass
class Noted:
    name: str
    note: str = dataclasses.field(default="", compare=False)
    marks: Set[str] = dataclasses.field(default_factory=set[str], compare=False)


class Circle(msgspec.Struct, tag=True):
    marks: set[str]


class Path(msgspec.Struct, tag=True):
    marks: list[str]


class Positional(msgspec.Struct, array_like=True, tag=True):
    name: str
    marks: set[str]


class Tree(msgspec.Struct):
    marks: set[str]
    below: "list[Tree]" = []


class Pair(NamedTuple):
    size: float
    marks: frozenset[str]


class Named(TypedDict):
    marks: frozenset[str]


class Colour(IntEnum):
    RED = 5


class Box(msgspec.Struct, Generic[T]):
    inside: T


class Row(msgspec.Struct, rename="camel"):
    """A row with a field of each structure that may hold a set or a float."""

    the_set: set[str] = set()
    described: Annotated[set[str], msgspec.Meta(description="some")] = set()
    abstract: Set[str] = frozenset()
    listed: Sequence[str] = []
    sets: frozenset[tuple[str, ...]] = frozenset()
    by_name: Mapping[str, set[str]] = {}
    shape: Circle | Path | None = None
    tagged: Positional | None = None
    tree: Tree | None = None
    pair: Pair | None = None
    named: Named | None = None
    noted: Noted | None = None
    box: Box[set[str]] | None = None
    fixed: tuple[float, set[str]] | None = None
    many: tuple[set[str], ...] = ()
    ratio: float = 0.0
    maybe: float | list[set[str]] | None = None
    both: int | float = 0
    chosen: float | Literal[5] = 0
    coloured: float | Colour = 0.0
    anything: Any = None
    whole: int = 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"theSet": ["a", "b"]}, {"theSet": ["b", "a"]}),
        ({"described": ["a", "b"]}, {"described": ["b", "a"]}),
        ({"abstract": ["a", "b"]}, {"abstract": ["b", "a"]}),
        ({"sets": [["a", "b"], ["c"]]}, {"sets": [["c"], ["a", "b"]]}),
        ({"byName": {"x": ["a", "b"], "y": []}}, {"byName": {"y": [], "x": ["b", "a"]}}),
        ({"shape": {"type": "Circle", "marks": ["a", "b"]}}, {"shape": {"marks": ["b", "a"], "type": "Circle"}}),
        ({"tagged": ["Positional", "n", ["a", "b"]]}, {"tagged": ["Positional", "n", ["b", "a"]]}),
        (
            {"tree": {"marks": [], "below": [{"marks": ["a", "b"], "below": []}]}},
            {"tree": {"below": [{"below": [], "marks": ["b", "a"]}], "marks": []}},
        ),
        ({"pair": [1, ["a", "b"]]}, {"pair": [1.0, ["b", "a"]]}),
        ({"named": {"marks": ["a", "b"]}}, {"named": {"marks": ["b", "a"]}}),
        ({"noted": {"name": "n", "marks": ["a", "b"]}}, {"noted": {"name": "n", "marks": ["b", "a"]}}),
        ({"box": {"inside": ["a", "b"]}}, {"box": {"inside": ["b", "a"]}}),
        ({"fixed": [2, ["a", "b"]]}, {"fixed": [2.0, ["b", "a"]]}),
        ({"many": [["a", "b"], ["c"]]}, {"many": [["b", "a"], ["c"]]}),
        ({"ratio": 5}, {"ratio": 5.0}),
        ({"maybe": 5}, {"maybe": 5.0}),
        ({"maybe": [["a", "b"]]}, {"maybe": [["b", "a"]]}),
        ({"ratio": 10**400}, {"ratio": 10**400}),
    ],
)
def test_what_a_type_gives_no_meaning_to_is_no_difference(one: Any, other: Any) -> None:
    before = msgspec.json.encode([one, other])
    assert rows_equal(one, other, Row)
    assert rows_equal(other, one, Row)
    assert msgspec.json.encode([one, other]) == before, "neither is changed"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"listed": ["a", "b"]}, {"listed": ["b", "a"]}),
        ({"theSet": ["a"]}, {"theSet": ["a", "a"]}),
        ({"theSet": ["a"]}, {"theSet": ["b"]}),
        # By its name in Python it is no field of the row.
        ({"the_set": ["a", "b"]}, {"the_set": ["b", "a"]}),
        ({"sets": [["a", "b"]]}, {"sets": [["b", "a"]]}),
        ({"shape": {"type": "Path", "marks": ["a", "b"]}}, {"shape": {"type": "Path", "marks": ["b", "a"]}}),
        ({"shape": {"type": "Path", "marks": []}}, {"shape": {"type": "Circle", "marks": []}}),
        ({"many": [["a"], ["b"]]}, {"many": [["b"], ["a"]]}),
        ({"noted": {"name": "n", "note": "x"}}, {"noted": {"name": "n", "note": "y"}}),
        ({"anything": ["a", "b"]}, {"anything": ["b", "a"]}),
        ({"anything": 5}, {"anything": 5.0}),
        ({"both": 5}, {"both": 5.0}),
        ({"chosen": 5}, {"chosen": 5.0}),
        ({"coloured": 5}, {"coloured": 5.0}),
        ({"whole": 5}, {"whole": 5.0}),
        ({"whole": 1}, {"whole": True}),
        ({"ratio": 1}, {"ratio": True}),
        ({"ratio": 1}, {"ratio": "1"}),
        ({"ratio": 0}, {"ratio": None}),
        ({"ratio": 10**400}, {"ratio": 10**400 + 1}),
        ({"whole": 0}, {}),
        ({}, {"unknown": 1}),
        ({}, None),
        ([], {}),
    ],
)
def test_everything_else_is_one(one: Any, other: Any) -> None:
    assert not rows_equal(one, other, Row)
    assert not rows_equal(other, one, Row)


@pytest.mark.parametrize("row", [Identical, Noted, Row, Positional, Tree])
def test_what_does_not_fit_its_type_is_compared_all_the_same(row: type) -> None:
    odd: list[Any] = [{}, [], [[]], ["Positional"], 5, "text", None, {"members": 1, "marks": {"a": 1}, "tree": [1]}]
    for value in odd:
        assert rows_equal(value, value, row)
        assert not rows_equal(value, [value], row)


def test_how_instances_compare_neither_hides_nor_invents_a_difference() -> None:
    assert rows_equal({"members": ["a", "b"], "amount": 1}, {"members": ["b", "a"], "amount": 1}, Identical)
    assert not rows_equal({"members": ["a", "b"], "amount": 1}, {"members": ["b", "a"], "amount": 2}, Identical)
    one, other = {"name": "n", "note": "", "marks": ["a", "b"]}, {"name": "n", "note": "hacked", "marks": ["b", "a"]}
    assert not rows_equal(one, other, Noted)
    assert rows_equal(one, other | {"note": ""}, Noted)


@pytest.mark.parametrize("seed", range(50))
def test_any_row_written_again_in_another_order_of_its_sets_is_alike_and_any_other_is_not(seed: int) -> None:
    random = Random(seed)

    def marks() -> list[str]:
        return random.sample("abcdefgh", random.randint(0, 8))

    def shuffled(value: list[str]) -> list[str]:
        return random.sample(value, len(value))

    sets, trees = [marks() for _ in range(4)], [marks() for _ in range(3)]

    def written(each: Any) -> Any:
        return {
            "theSet": each(sets[0]),
            "byName": {name: each(sets[n]) for n, name in random.sample([(1, "x"), (2, "y")], 2)},
            "tree": {"marks": each(trees[0]), "below": [{"marks": each(tree)} for tree in trees[1:]]},
            "shape": {"type": "Circle", "marks": each(sets[3])},
            "ratio": random.choice([3, 3.0]),
        }

    one = written(list)
    assert rows_equal(one, written(shuffled), Row)
    fits: Row = msgspec.convert(one, Row)
    assert rows_equal(
        msgspec.json.decode(msgspec.json.encode(fits)), msgspec.json.decode(msgspec.json.encode(fits)), Row
    )
    spoilt: list[list[str]] = random.choice([sets, trees])
    spoilt[random.randrange(len(spoilt))].append("z")
    assert not rows_equal(one, written(shuffled), Row)


async def test_only_fields_that_differ_are_shown_beside_sets_in_another_order() -> None:
    class Members(msgspec.Struct, frozen=True):
        members: list[str]
        ratio: Any
        name: str

    class Typed(msgspec.Struct, frozen=True):
        members: set[str]
        ratio: float
        name: str

    log, read_store = MemoryWriteStore(), MemoryReadStore()
    await log_of(log, 1)
    await Built(log, read_store, 1, Members).save(1, {"a": (Members(["x", "y"], 5, "ann"), 1)})
    await Built(log, read_store, 2, Members).save(1, {"a": (Members(["y", "x"], 5.0, "eve"), 1)})
    found = await compare(log, read_store, "totals", 1, 2, RealWorld(), row=Typed)
    (shown,) = found.sample
    assert shown.fields == {"name": FieldDifference("ann", "eve")}
    found = await compare(log, read_store, "totals", 1, 2, RealWorld())
    assert found.sample[0].fields.keys() == {"members", "ratio", "name"}
