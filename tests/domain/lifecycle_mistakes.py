"""Mistakes in the options of a projection, each with what the error must say."""

from collections.abc import Callable
from typing import Any

from tests.sample_domains.orders import OrderCancelled, OrderId, OrderPaid, OrderPlaced, OrderSummary, summarise
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.domain.projection import Projection

EVENTS = [OrderPlaced, OrderPaid, OrderCancelled]


def takes_recorded(row: OrderSummary | None, event: OrderPlaced, recorded: RecordedEvent) -> OrderSummary | None:
    return row


def said(fold: Callable[..., Any] = summarise, *, key: object = OrderId, **running: Any) -> Callable[[], Wiring]:
    """A projection of which this is said."""
    return lambda: Wiring([Module("m", events=EVENTS, projections=[Projection("p", fold, key=key, **running)])])


MISTAKES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a lifecycle there is not": (said(lifecycle="eager"), ["`lifecycle` is one of async, inline, live"]),
    "a way to park there is not": (said(parks="row"), ["`parks` one of key, partition"]),
    "no partitions": (said(partitions=0), ["`partitions` is 1 to 256, not 0"]),
    "too many partitions": (said(partitions=257), ["`partitions` is 1 to 256, not 257"]),
    "freshness of no time at all": (said(freshness=0), ["`freshness` is seconds above 0, not 0"]),
    "a live projection without a tag": (
        said(lifecycle="live", key=lambda event: "all"),
        ["Projection('p', summarise) is live", "Let `key` be a tag type", "lifecycle='async'"],
    ),
    "an inline projection that wants the position": (
        said(takes_recorded, lifecycle="inline"),
        ["takes_recorded) is inline", "takes a RecordedEvent", "Put what it needs into the event", "lifecycle='async'"],
    ),
} | {
    f"{name} of a projection that is {lifecycle}": (
        said(lifecycle=lifecycle, **{name: value}),
        [f"`{name}` of a projection that is {lifecycle}", why, "lifecycle='async'"],
    )
    for lifecycle in ("live", "inline")
    for name, value, why in (
        ("find_by", ["total"], "Ask by key"),
        ("order_by", ["total"], "Ask by key"),
        ("partitions", 2, "it has no follower"),
        ("parks", "partition", "it has no follower"),
        ("freshness", 1.0, "it has no follower"),
    )
}
