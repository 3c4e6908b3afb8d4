"""Reports as anyone may see them: without the texts of errors, which are for operators.

Errors of the user's functions and of stores have data, addresses and names in them.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar, cast

import msgspec

from twofold.errors import InvalidMessage, Unavailable
from twofold.health import BuildStatus, FollowerStatus, HealthProblem, PartitionStatus
from twofold.http.action_records import ActionRecord
from twofold.http.exchange import Exchange
from twofold.http.wire import Wire
from twofold.online_move import MoveStatus
from twofold.read_store.port import Parked
from twofold.status import Status
from twofold.synchronization.cluster_state import Pause
from twofold.synchronization.outage import Outage
from twofold.synchronization.policy_rows import RejectedCommand

T = TypeVar("T")

HIDDEN = "Operators can see it."
"""What stands in place of a text."""

_TEXTS: dict[type, str] = {
    PartitionStatus: "error",
    FollowerStatus: "error",
    BuildStatus: "error",
    Parked: "error",
    Outage: "error",
    Pause: "reason",
    RejectedCommand: "message",
    ActionRecord: "outcome",
    HealthProblem: "message",
    Status: "version",
    MoveStatus: "error",
}
"""The field of each report that holds such a text."""


def shown_to(wire: Wire, exchange: Exchange, report: T) -> T:
    """The report as the caller of a request may see it."""
    return report if wire.shows_texts(exchange) else without_texts(report)


@contextmanager
def texts_for_operators(wire: Wire, exchange: Exchange) -> Generator[None]:
    """Hide the text of an error from a caller who may act but not inspect: it names rows, errors and stores."""
    try:
        yield
    except (InvalidMessage, Unavailable) as error:
        if wire.shows_texts(exchange):
            raise
        if isinstance(error, InvalidMessage):
            raise InvalidMessage(HIDDEN, field=error.field) from error
        raise Unavailable(HIDDEN, retry_after=error.retry_after) from error


def without_texts(report: T) -> T:
    """The report with `HIDDEN` in place of each text that is for operators only."""
    return cast("T", _hide(report))


def _hide(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        hidden = _TEXTS.get(type(value))
        changes = {
            name: HIDDEN if name == hidden and member else _hide(member)
            for name, member in msgspec.structs.asdict(value).items()
        }
        return msgspec.structs.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(map(_hide, cast("tuple[object, ...]", value)))
    if isinstance(value, list):
        return list(map(_hide, cast("list[object]", value)))
    return value
