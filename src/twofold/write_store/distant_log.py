"""A log that other processes write. It may be away when this one starts, and is opened as soon as it is there."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position
from twofold.late_opening import LateOpening
from twofold.signal import Signal
from twofold.world import World
from twofold.write_store.port import PAGE_BYTES, Append, Appended, LogIdentity, LogRow, Outcome, Slice, WriteStore
from twofold.write_store.reserving import DecideReserved, append_reserved


class DistantLog:
    """A write store that is opened by `opening` when it can be reached. Until then its calls are Unavailable.

    `exclusive` says whether one process only can write to the log: another one than this.
    """

    def __init__(self, opening: Callable[[], Awaitable[WriteStore]], world: World, *, exclusive: bool) -> None:
        self.late = LateOpening(opening, world)
        self.exclusive = exclusive
        self._world = world
        self._never = Signal()

    @property
    def identity(self) -> LogIdentity:
        """Which history it has; without a name before it was opened."""
        return LogIdentity("", 0) if self.late.opened is None else self.late.opened.identity

    @property
    def problem(self) -> str | None:
        return None if self.late.opened is None else self.late.opened.problem

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        return await (await self.late.get()).append(batch)

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        return await append_reserved(await self.late.get(), conditions, decide)

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        return await (await self.late.get()).read(query, after, limit, size)

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        return await (await self.late.get()).newer(conditions, command_id, limit)

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        return await (await self.late.get()).rows(space, keys, limit)

    async def wait(self, after: Position, timeout: float) -> None:
        if self.late.opened is None:
            await self._world.poll(self._never.next, timeout)
        else:
            await self.late.opened.wait(after, timeout)

    async def close(self) -> None:
        await self.late.close(lambda log: log.close())
