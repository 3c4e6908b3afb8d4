"""Which positions belong to a history: exactly those whose event is still there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.write_store.port import LogIdentity

AFTER_TWO = LogIdentity("orders", 3, ((2, 10), (3, 8)))


@pytest.mark.parametrize(
    ("stamp", "position", "holds"),
    [
        pytest.param("orders.1.-", 8, True, id="before both forks"),
        pytest.param("orders.1.-", 9, False, id="cut off by the second fork"),
        pytest.param("orders.1.-", 11, False, id="cut off by the first fork"),
        pytest.param("orders.2.-", 8, True, id="written before the second fork"),
        pytest.param("orders.2.-", 9, False, id="cut off by the fork after it"),
        pytest.param("orders.3.-", 1_000, True, id="of the present epoch"),
        pytest.param("orders.4.-", 1, False, id="of an epoch that has not begun here"),
        pytest.param("others.3.-", 1, False, id="of another log"),
        pytest.param("orders.-", 1, False, id="without an epoch"),
        pytest.param("orders..-", 1, False, id="with an empty epoch"),
        pytest.param("orders.-1.-", 1, False, id="with a negative epoch"),
        pytest.param("orders.³.-", 1, False, id="with a digit that is no number"),
        pytest.param("", 0, False, id="without anything"),
    ],
)
def test_a_position_is_held_up_to_where_the_histories_part(stamp: str, position: int, holds: bool) -> None:
    assert AFTER_TWO.holds(stamp, position) is holds


def test_a_log_whose_name_has_dots_holds_its_own_stamp() -> None:
    identity = LogIdentity("shop.orders", 2, ((2, 5),))
    assert identity.holds(identity.stamp("-"), 7)
    assert identity.holds("shop.orders.1.-", 5)
    assert not identity.holds("shop.1.-", 5)


@given(st.lists(st.one_of(st.just("append"), st.integers(0, 6)), max_size=60))
def test_exactly_the_positions_whose_event_survived_every_failover_are_held(steps: list[str | int]) -> None:
    """A number is a fail-over that loses so many of the last events."""
    log: list[int] = []
    forks: list[tuple[int, int]] = []
    noted: list[tuple[str, int, int]] = []
    for written, step in enumerate(steps):
        if isinstance(step, int):
            del log[max(0, len(log) - step) :]
            forks.append((len(forks) + 2, len(log)))
        else:
            log.append(written)
            noted.append((LogIdentity("log", len(forks) + 1).stamp("-"), len(log), written))
    now = LogIdentity("log", len(forks) + 1, tuple(forks))
    for stamp, position, event in noted:
        assert now.holds(stamp, position) is (event in log)
