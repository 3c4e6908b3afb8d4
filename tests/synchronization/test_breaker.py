"""When a projection stops instead of parking more keys."""

import pytest

from twofold.synchronization.mass_failure import Breaker


def counted(breaker: Breaker, outcomes: str) -> Breaker:
    """A breaker that has seen these: `.` a folded key, `x` one that fails, at the first of which it may stop."""
    for outcome in outcomes:
        if outcome == "x" and breaker.stops() is not None:
            break
        breaker.count(folded=outcome == ".", parked=outcome == "x")
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ("", None),
        ("x" * 9, None),
        ("x" * 10, "10 keys in a row could not be folded"),
        ("." * 40 + "x" * 9, None),
        ("." * 40 + "x" * 10, "10 keys in a row could not be folded"),
        ("xxxxx." * 2, "9 of the last 10 keys could not be folded"),
        ("x." * 5, None),
        ("x.x" * 4, "7 of the last 11 keys could not be folded"),
        ("..x" * 100, None),
    ],
)
def test_it_opens_for_keys_in_a_row_and_for_a_share_of_the_keys(outcomes: str, reason: str | None) -> None:
    assert counted(Breaker(10, 0.5), outcomes).stops() == reason


def test_the_first_key_that_is_folded_closes_it() -> None:
    breaker = counted(Breaker(10, 0.5), "x" * 10)
    assert breaker.stops() is not None
    breaker.count(folded=1, parked=0)
    assert breaker.stops() is None
    assert counted(breaker, "x" * 8).stops() is None
    assert counted(breaker, "x").stops() == "9 of the last 10 keys could not be folded"
    breaker.count(folded=1, parked=0)
    assert breaker.stops() is None


def test_a_share_is_one_of_the_last_keys_however_many_there_were_before() -> None:
    breaker = counted(Breaker(10, 0.5), "." * 100_000)
    assert counted(breaker, "xxxx." * 12).stops() is not None


def test_it_can_be_turned_off() -> None:
    assert counted(Breaker(0, 0.5), "x" * 1_000).stops() is None
    assert counted(Breaker(10, 1.0), "xxxxxxxxx." * 100).stops() is None
