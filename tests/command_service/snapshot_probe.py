"""A domain whose states show if an event is lost, doubled or folded in another order, and a store that counts reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from tests.command_service.service_helpers import Services
from twofold.domain.decision import DecisionModel, Fold
from twofold.domain.events import Event, RecordedEvent, Upcaster
from twofold.domain.module import Module
from twofold.domain.tags import Tag
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import LogRow, Slice

LedgerId = Annotated[str, Tag("ledger")]


class Enter(msgspec.Struct, frozen=True):
    """Enter amounts into some ledgers; 0 clears them."""

    ledgers: list[LedgerId]
    amount: int


class Entered(msgspec.Struct, frozen=True):
    ledgers: list[LedgerId]
    amount: int


class Cleared(msgspec.Struct, frozen=True):
    ledgers: list[LedgerId]


class Ledger(msgspec.Struct, frozen=True):
    """`by_amount` keeps the order in which amounts came first."""

    ledger: LedgerId
    chain: int = 7
    by_amount: dict[str, int] = {}
    last: tuple[int, ...] = ()

    def evolve(self, event: Entered | Cleared) -> "Ledger":
        if isinstance(event, Cleared):
            return Ledger(self.ledger, self.chain)
        amount = str(event.amount)
        by_amount = {**self.by_amount, amount: self.by_amount.get(amount, 0) + 1}
        return Ledger(self.ledger, (self.chain * 31 + event.amount) % 1_000_003, by_amount, (*self.last, 1)[-3:])


class Positions(msgspec.Struct, frozen=True):
    """Folded from all ledgers, with the recorded events."""

    seen: tuple[int, ...] = ()

    def evolve(self, event: Entered, recorded: RecordedEvent) -> "Positions":
        return Positions((*self.seen, recorded.position))


def enter(command: Enter, ledgers: dict[LedgerId, Ledger], positions: Positions) -> Entered | Cleared:
    return Entered(command.ledgers, command.amount) if command.amount else Cleared(command.ledgers)


MODELS = [DecisionModel(Ledger, by=LedgerId), DecisionModel(Positions)]


def ledgers(
    model: type = Ledger,
    version: int | None = None,
    *,
    event_version: int = 1,
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Module:
    """The module with one model of a ledger, perhaps another one, and an event of another version."""

    def enter_one(command: Enter, ledgers: dict[LedgerId, Any]) -> Entered:
        return Entered(command.ledgers, command.amount)

    enter_one.__annotations__["ledgers"] = dict[LedgerId, model]  # type: ignore[valid-type]
    models = [DecisionModel(model, by=LedgerId, version=version)]
    entered = Event(Entered, version=event_version, upcasters=upcasters)
    return Module("ledgers", events=[entered, Cleared], models=models, decisions=[enter_one])


ALL_MODELS = Module("ledgers", events=[Entered, Cleared], models=MODELS, decisions=[enter])


class ReadCounts(MemoryWriteStore):
    """Counts the events that are read to be folded, and the reads of rows by space."""

    def __init__(self, log: str = "main") -> None:
        super().__init__(log)
        self.events_read = 0
        self.rows_read: dict[str, int] = {}

    async def newer(self, *arguments: Any) -> Any:
        page, outcome = await super().newer(*arguments)
        assert isinstance(page, Slice)
        self.events_read += len(page.events)
        return page, outcome

    async def rows(self, space: str, keys: Sequence[str] | None = None, limit: int | None = None) -> Any:
        self.rows_read[space] = self.rows_read.get(space, 0) + 1
        return await super().rows(space, keys, limit)

    @property
    def snapshots(self) -> dict[str, LogRow]:
        """The rows of snapshots."""
        return self._rows.get("snapshots", {})

    def damage(self, change: Callable[[bytes], bytes]) -> None:
        """Change the bytes of all snapshots."""
        for key, row in self.snapshots.items():
            self._rows["snapshots"][key] = LogRow(change(row.value), row.version)


async def entered(services: Services, ledger: str, count: int, *, start: int = 1) -> None:
    """Enter so many amounts, one after the other."""
    for n in range(start, start + count):
        await services.handle(Enter([ledger], n % 9 + 1), f"{ledger}-{n}")


async def states(services: Services, *ledger_ids: str) -> list[Any]:
    """The states of these ledgers, and of all other models."""
    folds: list[Fold] = []
    for model in services.wiring.models.values():
        folds += [Fold(model, (f"ledger:{ledger}",)) for ledger in ledger_ids] if model.kinds else [Fold(model, ())]
    return list((await services.folds.load(folds)).states.values())


async def replayed(store: ReadCounts, module: Module, *ledger_ids: str) -> list[Any]:
    """The same by a fold of all events, without any snapshot."""
    async with Services(store, module, snapshot_events=0) as services:
        return await states(services, *ledger_ids)
