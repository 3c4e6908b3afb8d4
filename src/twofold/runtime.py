"""The parts of a started app, started and stopped in order."""

from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from twofold.command_service import CommandService
from twofold.command_service.batcher import Batcher
from twofold.command_service.snapshots import Snapshots
from twofold.command_service.write_check import WriteCheck
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import ForkedHistory, Unavailable
from twofold.online_move import OnlineMove
from twofold.read_store.port import ReadModel, ReadStore
from twofold.roles import Roles
from twofold.synchronization.service import Synchronization
from twofold.telemetry.counted_folds import CountedFolds
from twofold.write_store.current_log import CurrentLog
from twofold.write_store.history import HistoryCheck


@dataclass(kw_only=True)
class Runtime:
    """A started app: its stores, the command side and the synchronization. `maintenance`: it runs for one task only.

    In a process without the role `sync` the synchronization only sees what others do.
    """

    write_store: CurrentLog
    read_store: ReadStore
    batcher: Batcher
    folds: CountedFolds
    snapshots: Snapshots
    commands: CommandService
    write_check: WriteCheck
    history: HistoryCheck
    models: Mapping[str, ReadModel]
    synchronization: Synchronization
    move: OnlineMove
    maintenance: bool
    roles: Roles
    head_at_start: Position = 0

    async def start(self) -> None:
        self.batcher.start()
        self.snapshots.start(self.batcher.append_alone)
        try:
            self.head_at_start = (await self.write_store.read(NO_EVENTS)).head
            await self._check_history()
        except Unavailable:
            if self.roles.handle_commands:
                raise
        if self.roles.handle_commands:
            await self.commands.start(maintenance=self.maintenance)
        await self.synchronization.start()

    async def _check_history(self) -> None:
        """Compare the checkpoints of read models with the log. Where the read store is away, followers do it later."""
        with suppress(Unavailable):
            for checkpoint in await self.read_store.checkpoints():
                if checkpoint.name in self.models:
                    progress = checkpoint.progress
                    with suppress(ForkedHistory):
                        await self.history.check(checkpoint.name, progress.stamp, progress.position)

    async def stop(self) -> None:
        # If one part fails to stop, or this is cancelled, the others are stopped all the same.
        async with AsyncExitStack() as parts:
            stores = self.write_store.close, self.read_store.close
            for stop in (*stores, self.batcher.stop, self.snapshots.stop, self.synchronization.stop, self.move.stop):
                parts.push_async_callback(stop)
