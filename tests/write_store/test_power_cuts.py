"""No power cut loses, doubles or tears what was acknowledged, and a store that does not sync is found out."""

import secrets

import pytest

from tests.write_store.disk_helpers import connection_of
from tests.write_store.power_cut_helpers import PowerCuts, Sabotage
from twofold.errors import TwofoldError
from twofold.testing.faulty_disk import FaultyDisk
from twofold.write_store.sqlite import SqliteWriteStore

LOGS = 22
CUTS = 10


async def cut_power(seeds: range, sabotage: Sabotage | None = None) -> None:
    for seed in seeds:
        await PowerCuts(seed, sabotage).run(CUTS)


async def test_two_hundred_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    await cut_power(range(LOGS))


@pytest.mark.torture
@pytest.mark.timeout(3_600)
async def test_ten_thousand_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    start = secrets.randbelow(10**9)
    await cut_power(range(start, start + 1_000))


def without_sync(store: SqliteWriteStore, disk: FaultyDisk) -> None:
    connection_of(store).execute("pragma synchronous = off")


def with_a_lying_disk(store: SqliteWriteStore, disk: FaultyDisk) -> None:
    disk.lies = True


def with_an_early_answer(store: SqliteWriteStore, disk: FaultyDisk) -> None:
    connection_of(store).execute("pragma synchronous = normal")


@pytest.mark.parametrize("sabotage", [without_sync, with_a_lying_disk, with_an_early_answer])
async def test_power_cuts_find_out_a_store_that_answers_before_its_data_is_on_disk(sabotage: Sabotage) -> None:
    with pytest.raises((AssertionError, TwofoldError)):
        await cut_power(range(20), sabotage)
