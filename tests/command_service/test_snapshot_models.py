"""Which states have snapshots, and when the snapshots of other code are left aside."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.command_service.service_helpers import Services
from tests.command_service.snapshot_probe import (
    Enter,
    Entered,
    Ledger,
    LedgerId,
    ReadCounts,
    entered,
    ledgers,
    replayed,
    states,
)
from twofold.command_service import snapshots
from twofold.domain.module import Module


class Doubled(msgspec.Struct, frozen=True):
    """Was folded with a factor of 1 before, under the same name."""

    ledger: LedgerId
    total: int = 0

    def evolve(self, event: Entered) -> "Doubled":
        return Doubled(self.ledger, self.total + 2 * event.amount)


class Single(msgspec.Struct, frozen=True):
    ledger: LedgerId
    total: int = 0

    def evolve(self, event: Entered) -> "Single":
        return Single(self.ledger, self.total + event.amount)


Single.__qualname__ = "Doubled"


class Rates:
    """An object: nothing says what it does."""

    def __init__(self, factor: int) -> None:
        self.factor = factor


RATES = Rates(1)


class Converted(msgspec.Struct, frozen=True):
    ledger: LedgerId
    total: int = 0

    def evolve(self, event: Entered) -> "Converted":
        return Converted(self.ledger, self.total + RATES.factor * event.amount)


class Open(msgspec.Struct, frozen=True):
    """Has a field that JSON does not tell all of."""

    ledger: LedgerId
    anything: Any = None

    def evolve(self, event: Entered) -> "Open":
        return Open(self.ledger, (event.amount,))


class Share(msgspec.Struct, frozen=True):
    """Cannot be read back where the amount is 3."""

    ledger: LedgerId
    share: float = 0.0

    def evolve(self, event: Entered) -> "Share":
        return Share(self.ledger, float("nan") if event.amount == 3 else event.amount / 3)


class Wide(msgspec.Struct, frozen=True):
    """Is read back with a list in place of its tuple, so that adding another tuple fails."""

    ledger: LedgerId
    amounts: Sequence[int] = ()

    def evolve(self, event: Entered) -> "Wide":
        return Wide(self.ledger, (*self.amounts, event.amount))


class Unequal:
    """Not even a record."""

    def __init__(self, total: int = 0) -> None:
        self.total = total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unequal) and other.total == self.total

    def __hash__(self) -> int:
        return hash(self.total)

    def evolve(self, event: Entered) -> "Unequal":
        return Unequal(self.total + event.amount)


class Notes(msgspec.Struct, frozen=True):
    """A large state: 200 bytes for each event."""

    ledger: LedgerId
    notes: tuple[str, ...] = ()

    def evolve(self, event: Entered) -> "Notes":
        return Notes(self.ledger, (*self.notes, "x" * 200))


async def lived(store: ReadCounts, module: Module, *, start: int = 1) -> Services:
    """A service that entered 30 amounts, and has stopped."""
    async with Services(store, module, snapshot_events=10) as services:
        await entered(services, "a", 30, start=start)
        assert await states(services, "a") == await replayed(store, module, "a")
    return services


async def test_the_snapshot_of_a_changed_model_is_ignored_and_replaced() -> None:
    store = ReadCounts()
    await lived(store, ledgers(Single))
    (key, before), *others = store.snapshots.items()
    changed = await lived(store, ledgers(Doubled), start=31)
    assert (changed.snapshots.counts.ignored, changed.snapshots.counts.used) == (1, 0)
    assert not others and list(store.snapshots) == [key]
    assert store.snapshots[key].value != before.value
    again = await lived(store, ledgers(Doubled), start=61)
    assert (again.snapshots.counts.ignored, again.snapshots.counts.used) == (0, 1)


async def test_a_snapshot_is_ignored_when_events_are_upcast_in_another_way() -> None:
    def negate(fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"amount": -fields["amount"]}

    def add(fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"amount": fields["amount"] + 1}

    store = ReadCounts()
    await lived(store, ledgers())
    for upcaster in negate, add, negate:
        module = ledgers(event_version=2, upcasters={1: upcaster})
        async with Services(store, module, snapshot_events=10) as one:
            assert await states(one, "a") == await replayed(store, module, "a")
            assert one.snapshots.counts.used == 0


async def test_a_model_of_unknown_code_has_no_snapshot_which_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ReadCounts()
    services = await lived(store, ledgers(Converted))
    await lived(store, ledgers(Converted), start=31)
    assert not store.snapshots
    assert services.snapshots.counts == snapshots.SnapshotCounts()
    logged = [record for record in caplog.records if record.name == snapshots.__name__]
    assert len(logged) == 2  # one for each process
    assert "DecisionModel(Converted) is stored: it reaches an object of" in logged[0].getMessage()
    assert "Give the model a `version`" in logged[0].getMessage()


async def test_a_version_stands_for_code_that_is_unknown() -> None:
    store = ReadCounts()
    await lived(store, ledgers(Converted, version=1))
    used = [
        (await lived(store, ledgers(Converted, version=version), start=start)).snapshots.counts.used
        for version, start in ((1, 31), (2, 61), (2, 91))
    ]
    assert used == [1, 0, 1]


async def test_a_version_also_replaces_the_snapshots_of_known_code() -> None:
    store = ReadCounts()
    await lived(store, ledgers(Ledger))
    assert (await lived(store, ledgers(Ledger, version=1), start=31)).snapshots.counts.used == 0
    assert (await lived(store, ledgers(Ledger, version=1), start=61)).snapshots.counts.used == 1


@pytest.mark.parametrize("model", [Open, Wide, Unequal])
async def test_a_state_that_json_does_not_tell_all_of_has_no_snapshot(
    model: type, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReadCounts()
    await lived(store, ledgers(model))
    assert not store.snapshots
    assert sum("No snapshot" in record.getMessage() for record in caplog.records) == 1


async def test_a_single_state_without_exact_json_keeps_no_other_from_its_snapshot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ReadCounts()
    async with Services(store, ledgers(Share), snapshot_events=4) as services:
        for n in range(12):
            await services.handle(Enter(["bad"], 3), f"bad-{n}")
            await services.handle(Enter(["good"], 2), f"good-{n}")
    assert [key for key in store.snapshots] == ['["Share","ledger:good"]']
    assert services.snapshots.counts.failed > 1
    assert sum("No snapshot" in record.getMessage() for record in caplog.records) == 1


async def test_large_states_are_stored_more_rarely() -> None:
    store = ReadCounts()
    async with Services(store, ledgers(Notes), snapshot_events=10) as services:
        await entered(services, "a", 400)
    # Each is due after twice as many events as the one before: 10, 30, 90, …
    assert services.snapshots.counts.stored in (3, 4, 5)
    async with Services(store, ledgers(Notes), snapshot_events=10) as services:
        assert await states(services, "a") == await replayed(store, ledgers(Notes), "a")
        assert services.snapshots.counts.used == 1


async def test_a_state_that_is_too_large_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MOST_BYTES", 3_000)
    store = ReadCounts()
    async with Services(store, ledgers(Notes), snapshot_events=20) as services:
        await entered(services, "a", 60)
        assert await states(services, "a") == await replayed(store, ledgers(Notes), "a")
    assert not store.snapshots


async def test_a_boundary_with_long_ids_has_a_snapshot() -> None:
    store = ReadCounts()
    name = "é" * 250
    async with Services(store, ledgers(), snapshot_events=10) as services:
        await entered(services, name, 30)
    async with Services(store, ledgers(), snapshot_events=10) as services:
        assert await states(services, name) == await replayed(store, ledgers(), name)
        assert services.snapshots.counts.used == 1
    (key,) = store.snapshots
    assert len(key.encode()) <= 500
