"""Appends that no other node can disturb: what is written is decided while nobody else can write."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from twofold.domain.event_query import AppendCondition
from twofold.write_store.port import Append, Outcome, Slice, WriteStore

DecideReserved = Callable[[Slice | None], Awaitable[Sequence[Append]]]
"""Gets the events newer than the conditions (None if they cannot be read), and returns the batch to write."""


@runtime_checkable
class Reservable(Protocol):
    """A write store that several nodes write, and that one of them can reserve."""

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        """Reserve the log, call `decide` with what is newer than the conditions, and write its batch: the outcomes.

        From before the read until the commit nobody else appends. Nodes get the log in the order in which they ask.
        `decide` is called once, or not at all if this raises before. It should take milliseconds: all nodes wait.
        If it takes longer than a second, or the connection is lost, others may write first. That is safe: the
        conditions of the batch are checked as in every append.
        """
        ...


async def append_reserved(
    write_store: WriteStore, conditions: Sequence[AppendCondition], decide: DecideReserved
) -> list[Outcome]:
    """The same on any write store. One that cannot be reserved is read and written: others may write in between."""
    if isinstance(write_store, Reservable):
        return await write_store.append_reserved(conditions, decide)
    page, _ = await write_store.newer(conditions)
    batch = await decide(page)
    return await write_store.append(batch) if batch else []
