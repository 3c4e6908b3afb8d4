"""Ids that Twofold makes cannot be used up or predicted by a caller who chooses command ids and sees events."""

import asyncio
import re
import uuid
from pathlib import Path
from typing import Annotated, Any

import apsw
import pytest
from msgspec import Struct

from twofold import App, Context, Module, Policy, Tag
from twofold.domain.command_ids import APPEND_ID_PATTERN, command_id_of_append, command_id_of_policy, derived_id
from twofold.domain.events import Position
from twofold.errors import InvalidMessage
from twofold.operations.move import move
from twofold.testing import FrozenWorld
from twofold.world import RealWorld
from twofold.write_store.log_secret import log_secret
from twofold.write_store.memory import MemoryWriteStore

OrderId = Annotated[str, Tag("order")]


class Place(Struct, frozen=True):
    order_id: OrderId


class Placed(Struct, frozen=True):
    order_id: OrderId
    confirmation_code: str


class Pay(Struct, frozen=True):
    order_id: OrderId


class Paid(Struct, frozen=True):
    order_id: OrderId


def place(command: Place, context: Context) -> Placed:
    return Placed(command.order_id, context.new_id())


def pay(command: Pay) -> Paid:
    return Paid(command.order_id)


async def charge(event: Placed) -> Pay:
    return Pay(event.order_id)


def shop(folder: Path, *, world: FrozenWorld | None = None) -> App:
    module = Module("shop", events=[Placed, Paid], decisions=[place, pay], policies=[Policy("charge", charge)])
    return App(module, write_store=f"sqlite:///{folder}/log.db", read_store="memory:", world=world)


async def log_after(app: App, command_id: str) -> list[tuple[Position, str, bytes]]:
    await app.send(Place("o-1"), command_id=command_id, wait_for=["charge"], wait_seconds=60)
    return [(event.position, event.metadata.command_id, event.payload) for event in (await app.log()).events]


async def test_commands_of_policies_have_ids_that_no_caller_can_use(tmp_path: Path) -> None:
    async with shop(tmp_path) as app:
        (_, mine, _), (_, of_policy, _) = await log_after(app, "mine")
        assert mine == "mine"
        assert of_policy.startswith("~")
        for command_id in (of_policy, "~", "~anything"):
            with pytest.raises(InvalidMessage, match="may not begin with '~'") as refused:
                await app.send(Pay("o-1"), command_id=command_id)
            assert refused.value.field == "command_id"


async def test_the_same_command_ids_lead_to_other_derived_ids_in_each_log(tmp_path: Path) -> None:
    logs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        async with shop(tmp_path / name) as app:
            logs.append(await log_after(app, "the-key-of-the-caller"))
    (placed, paid), (placed_elsewhere, paid_elsewhere) = logs
    assert placed[2] != placed_elsewhere[2], "a caller who has a log too could predict the confirmation code"
    assert paid[1] != paid_elsewhere[1]


async def test_derived_ids_stay_the_same_in_one_log_over_restarts_and_a_move(tmp_path: Path) -> None:
    contexts: list[str] = []

    def place_and_note(command: Place, context: Context) -> Placed | None:
        contexts.append(context.new_id())
        return None

    def app_in(folder: Path) -> App:
        module = Module("shop", events=[Placed, Paid], decisions=[place_and_note, pay])
        return App(module, write_store=f"sqlite:///{folder}/log.db", read_store="memory:")

    for _ in range(2):
        async with app_in(tmp_path) as app:
            await app.send(Place("o-1"), command_id="c-1")
            # The outcome is known, so it would not be decided again.
        _forget(tmp_path)
    (tmp_path / "moved").mkdir()
    await move(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/moved/log.db", RealWorld())
    async with app_in(tmp_path / "moved") as app:
        await app.send(Place("o-1"), command_id="c-1")
    assert len(contexts) == 3
    assert len(set(contexts)) == 1


def _forget(folder: Path) -> None:
    connection = apsw.Connection(str(folder / "log.db"))
    connection.execute("delete from commands")
    connection.close()


async def test_with_one_seed_a_test_sees_the_same_ids_each_time(tmp_path: Path) -> None:
    seen = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        async with shop(tmp_path / name, world=FrozenWorld(seed=5)) as app:
            await app.send(Place("o-1"), command_id="c-1")
            seen.append((await app.log()).events[0].payload)
    assert seen[0] == seen[1]


async def test_processes_that_start_at_once_on_a_new_log_agree_on_its_secret() -> None:
    class Slow(MemoryWriteStore):
        async def rows(self, *args: Any, **options: Any) -> Any:
            found = await super().rows(*args, **options)
            await asyncio.sleep(0)
            return found

    log = Slow()
    secrets = await asyncio.gather(*(log_secret(log, FrozenWorld(seed=seed)) for seed in range(5)))
    assert len(set(secrets)) == 1
    assert len(secrets[0]) == 32


def test_an_id_of_an_append_is_told_from_every_id_of_a_policy() -> None:
    pattern = re.compile(APPEND_ID_PATTERN)
    for number in range(200):
        key = derived_id(b"secret", number)
        assert uuid.UUID(key).version == 4
        assert not pattern.search(command_id_of_policy(key, 0))
        assert not pattern.search(command_id_of_policy(key, number))
        assert pattern.search(command_id_of_append(number * 7_919, number))


def test_derived_ids_depend_on_every_part_and_on_the_secret() -> None:
    ids = [
        derived_id(b"secret", "a", "bc"),
        derived_id(b"secret", "ab", "c"),
        derived_id(b"secret", "abc"),
        derived_id(b"other", "abc"),
        derived_id(b"", "abc"),
    ]
    assert len(set(ids)) == len(ids)
