"""The parts of a started app, started and stopped in order."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from twofold.command_service import CommandService
from twofold.command_service.batcher import Batcher
from twofold.command_service.write_check import WriteCheck
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.read_store.port import ReadStore
from twofold.synchronization.service import Synchronization
from twofold.write_store.port import WriteStore


@dataclass(kw_only=True)
class Runtime:
    """A started app: its stores, the command side and the synchronization. `maintenance`: it runs for one task only."""

    write_store: WriteStore
    read_store: ReadStore
    batcher: Batcher
    commands: CommandService
    write_check: WriteCheck
    synchronization: Synchronization
    maintenance: bool
    head_at_start: Position = 0

    async def start(self) -> None:
        self.batcher.start()
        self.head_at_start = (await self.write_store.read(NO_EVENTS)).head
        await self.commands.start(maintenance=self.maintenance)
        await self.synchronization.start()

    async def stop(self) -> None:
        # If one part fails to stop, or this is cancelled, the others are stopped all the same.
        async with AsyncExitStack() as parts:
            for stop in (self.write_store.close, self.read_store.close, self.batcher.stop, self.synchronization.stop):
                parts.push_async_callback(stop)
