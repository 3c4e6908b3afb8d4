"""What the tests of audits share: events, rows, a read model with one row of each kind, and how results are counted."""

from collections.abc import Callable
from typing import Any

import msgspec

from tests.operations.follower_helpers import serves
from tests.operations.generation_helpers import Built
from tests.sample_domains.counters import Counted, Ended, Total, add_up
from twofold.app import App
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS
from twofold.operations.audit import AuditResult
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import Parked, ReadStore, VersionedRow
from twofold.synchronization.cluster_state import OperatorAction
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, WriteStore


def skip_on_record(at: int, done: bool, version: int, read_store: str) -> OperatorAction:
    """The record of a skip of the second event, for the key `a`."""
    return OperatorAction(
        what="skip",
        name="totals",
        key="a",
        actor=None,
        at=at,
        done=done,
        outcome="",
        generation=1,
        version=version,
        position=2,
        read_store=read_store,
    )


def counts(found: AuditResult) -> dict[str, int]:
    """Everything that is not 0, by name."""
    reported: dict[str, Any] = msgspec.to_builtins(found)
    left_out = ("name", "generation", "position", "rows", "sample", "failures")
    return {name: reported[name] for name in reported if name not in left_out and reported[name]}


async def write(app: App, write_store: WriteStore, *events: object) -> None:
    """Let these events be in the log."""
    for event in events:
        head = (await write_store.read(NO_EVENTS)).head
        new = app.events.encode(event, f"c{head}", 0)
        await write_store.append([Append(Metadata(head, f"c{head}", f"c{head}"), (new,))])


def by_hand(counter: str, *by: int) -> Total:
    """The row of a counter that was counted on so."""
    row: Total | None = None
    for each in by:
        row = add_up(row, Counted([counter], each), counter)
    assert row is not None
    return row


async def everything_wrong(app: App, log: MemoryWriteStore, read_store: ReadStore) -> None:
    """A read model with one row of each kind."""
    await write(app, log, Counted(["right", "other", "behind", "lost"], 1), Counted(["behind", "right"], 2))
    await write(app, log, Counted(["ended", "parked", "lost"], 4), Ended(["ended"]), Counted(["early"], 5))
    rows: dict[str, tuple[Any, int]] = {
        "right": (by_hand("right", 1, 2), 2),
        "other": (by_hand("other", 7), 1),
        "behind": (by_hand("behind", 1), 1),
        "ended": (by_hand("ended", 4), 3),
        "made up": (by_hand("made up", 9), 4),
        "early": (by_hand("early", 5), 4),
    }
    parked = {"parked": Parked("parked", 3, "ValueError: no", 0)}
    await Built(log, read_store, 3, Total).save(5, rows, parked)
    await serves(log, read_store, "totals", 3)


def spoil(
    read_store: MemoryReadStore, number: int, key: str, how: Callable[[VersionedRow], VersionedRow | None]
) -> None:
    """Change a row without an event."""
    rows = read_store._tables["totals", number].rows
    spoilt = how(rows[key])
    del rows[key]
    if spoilt is not None:
        rows[key] = spoilt
