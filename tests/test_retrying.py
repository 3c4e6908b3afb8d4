from twofold.retrying import delay


def test_a_delay_doubles_with_each_failure_and_ends_at_the_longest() -> None:
    assert [delay(n, first=0.05, longest=0.5) for n in range(1, 7)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_a_delay_has_an_end_however_often_something_has_failed() -> None:
    assert delay(10_000, first=1, longest=60) == 60
