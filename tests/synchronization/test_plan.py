"""Who follows for what: every share somewhere, nobody with more than a fair part, and no share moved for nothing."""

from hypothesis import given
from hypothesis import strategies as st

from twofold.read_store.partition import shares as partitions
from twofold.synchronization.plan import plan
from twofold.synchronization.work_unit import WorkUnit, work_unit_named

NODES = ["n1", "n2", "n3", "n4"]


def some(count: int) -> list[WorkUnit]:
    return [WorkUnit("projection", "p", 1, each) for each in partitions(count)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[WorkUnit], dict[WorkUnit, str | None], list[str]]:
    shares = some(draw(st.integers(1, 12)))
    nodes = NODES[: draw(st.integers(1, 4))]
    owners = {share: draw(st.none() | st.sampled_from(nodes)) for share in shares}
    return shares, owners, nodes


@given(worlds(), st.randoms(use_true_random=False))
def test_nodes_that_look_one_after_another_come_to_fair_parts_and_then_move_nothing(
    world: tuple[list[WorkUnit], dict[WorkUnit, str | None], list[str]], random: st.DrawFn
) -> None:
    shares, owners, nodes = world
    for _ in range(2 * len(shares) + 2):
        order = list(nodes)
        random.shuffle(order)  # type: ignore[attr-defined]
        for node in order:
            todo = plan(shares, owners, node, nodes)
            assert all(owners[share] is None for share in todo.claim), "only what is free is claimed"
            assert all(owners[share] == node for share in todo.release)
            owners |= dict.fromkeys(todo.claim, node) | dict.fromkeys(todo.release, None)
    counts = [list(owners.values()).count(node) for node in nodes]
    assert None not in owners.values()
    assert max(counts) - min(counts) <= 1
    assert all(plan(shares, owners, node, nodes) == ([], []) for node in nodes)


@given(worlds())
def test_a_visitor_takes_what_is_free_and_nothing_else(
    world: tuple[list[WorkUnit], dict[WorkUnit, str | None], list[str]],
) -> None:
    shares, owners, nodes = world
    todo = plan(shares, owners, "visitor", nodes)
    assert todo.claim == sorted(share for share in shares if owners[share] is None)
    assert todo.release == []


def test_a_reserved_share_goes_to_the_node_it_is_meant_for() -> None:
    first, second, third = some(3)
    owners: dict[WorkUnit, str | None] = {first: "n1", second: "n2", third: "n1"}
    reserved = {first: "n1", second: "n1"}
    assert plan([first, second, third], owners, "n2", ["n1", "n2"], reserved).release == [second]
    owners[second] = None
    assert plan([first, second, third], owners, "n2", ["n1", "n2"], reserved).claim == []
    todo = plan([first, second, third], owners, "n1", ["n1", "n2"], reserved)
    assert (todo.claim, todo.release) == ([second], [third])


def test_the_name_of_a_lease_leads_back_to_its_share() -> None:
    for share in [*some(3), WorkUnit("policy", "a:b/0-3"), WorkUnit("build", "x:y", 7)]:
        assert work_unit_named(share.lease_name) == share
