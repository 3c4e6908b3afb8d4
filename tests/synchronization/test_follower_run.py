"""A follower that shares a worker with others takes exactly the events that its own query selects."""

from types import SimpleNamespace
from typing import Any

import pytest

from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import RecordedEvent
from twofold.synchronization.follower_run import FollowerRun
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.port import Slice

KINDS = [("a", ()), ("b", ("k:1",)), ("a", ("k:1", "k:2")), ("c", ("k:2",))]


def event(position: int, kind: str, tags: tuple[str, ...]) -> RecordedEvent:
    return RecordedEvent(position, kind, 1, b"{}", Envelope(f"e{position}", tags, Metadata(0, "c", "c")))


PAGE = Slice([event(n, *kind) for n, kind in enumerate(KINDS, 1)], 4, 4, b"c")


@pytest.mark.parametrize(
    ("query", "positions"),
    [
        (ALL_EVENTS, [1, 2, 3, 4]),
        (NO_EVENTS, []),
        (EventQuery((QueryItem(("a", "c")),)), [1, 3, 4]),
        (EventQuery((QueryItem(("a",), ("k:2",)), QueryItem(("b",)))), [2, 3]),
        (EventQuery((QueryItem((), ("k:2",)),)), [3, 4]),
    ],
)
def test_a_follower_of_a_shared_page_takes_what_its_query_selects(query: EventQuery, positions: list[int]) -> None:
    follower: Any = SimpleNamespace(query=query)
    run = FollowerRun(WorkUnit("relay", "all"), follower)
    assert [taken.position for taken in run.part(PAGE, whole=False).events] == positions
    run.position = 2
    assert [taken.position for taken in run.part(PAGE, whole=False).events] == [n for n in positions if n > 2]
