"""Connections are limited: the one that has waited longest for its client is closed for a new one."""

from typing import Any
from unittest.mock import Mock

from twofold.http.connection import Connections


def connection(*, busy: bool = False) -> Any:
    return Mock(waits_for_client=not busy)


def closed(*connections: Any) -> list[bool]:
    return [each.transport.abort.called for each in connections]


def test_the_one_that_has_waited_longest_is_closed_for_a_new_one() -> None:
    all_of_them = Connections(2)
    first, second, third = connection(), connection(), connection()
    assert all_of_them.opened(first) and all_of_them.opened(second)
    all_of_them.waits_no_longer(first)
    all_of_them.waits(first)
    assert all_of_them.opened(third)
    assert closed(first, second, third) == [False, True, False]


def test_one_with_a_request_in_progress_is_not_closed_and_a_new_one_is_refused() -> None:
    all_of_them = Connections(2)
    asked, answered, new = connection(), connection(busy=True), connection()
    assert all_of_them.opened(asked) and all_of_them.opened(answered)
    all_of_them.waits_no_longer(asked)
    assert not all_of_them.opened(new)
    assert closed(asked, answered) == [False, False]
    all_of_them.closed(new)
    all_of_them.closed(asked)
    assert all_of_them.opened(connection())
