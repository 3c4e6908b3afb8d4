"""The events of one command have limits, in number and in bytes, and so have those that wait for a commit."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import pytest
from msgspec import Struct

from tests.command_service.service_helpers import Services
from twofold.command_service.handle import CommandLimits
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.domain.tags import Tag
from twofold.errors import InvalidMessage, Unavailable
from twofold.settings import Settings
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome

NoteId = Annotated[str, Tag("note")]
LIMITS = CommandLimits(command_events=10, event_bytes=1_000, command_bytes=3_000)


class WriteNotes(Struct, frozen=True):
    """Write notes, each of some characters."""

    note_id: NoteId
    sizes: list[int]


class NoteKept(Struct, frozen=True):
    """A note was written."""

    note_id: NoteId
    text: str


def write_notes(command: WriteNotes) -> list[NoteKept]:
    return [NoteKept(command.note_id, "x" * size) for size in command.sizes]


NOTES = Module("notes", events=[NoteKept], decisions=[write_notes])


@pytest.mark.parametrize(
    ("sizes", "setting", "named"),
    [
        ([1] * 11, "command_events", "11 events"),
        ([1, 1_000, 1], "event_bytes", "'note-kept' event of this command has 1025 bytes"),
        ([900] * 4, "command_bytes", "allows 3000"),
    ],
)
async def test_a_command_whose_events_are_too_many_or_too_large_is_refused_with_the_setting(
    sizes: list[int], setting: str, named: str
) -> None:
    store = MemoryWriteStore()
    async with Services(store, NOTES, limits=LIMITS) as services:
        with pytest.raises(InvalidMessage, match=f"`{setting}`") as refused:
            await services.handle(WriteNotes("n", sizes), "c-1")
        assert named in str(refused.value)
        assert (await store.read(ALL_EVENTS)).head == 0
        written = await services.handle(WriteNotes("n", [900] * 3), "c-1")
        assert written.count == 3


def test_the_limits_have_the_names_of_settings() -> None:
    settings = Settings()
    assert {name: getattr(settings, name) for name in CommandLimits._fields} == CommandLimits()._asdict()


class Stuck(MemoryWriteStore):
    """A store that writes when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.free.set()

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        await self.free.wait()
        return await super().append(batch)


async def test_commands_whose_events_would_fill_the_queue_are_refused_with_the_setting() -> None:
    store = Stuck()
    async with Services(store, NOTES, queue_size=3_000) as services:
        store.free.clear()
        first = asyncio.create_task(services.handle(WriteNotes("n", [5_000]), "c-0"))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(services.handle(WriteNotes("n", [1_000]), f"c-{n}")) for n in (1, 2)]
        await asyncio.wait([first], timeout=0.01)
        assert len(services.batcher._queue) == 2
        with pytest.raises(Unavailable, match="`queue_bytes`"):
            await services.handle(WriteNotes("n", [1_000]), "c-3")
        assert not any(task.done() for task in (first, *waiting))
        store.free.set()
        await asyncio.gather(first, *waiting)
        await services.handle(WriteNotes("n", [1_000]), "c-3")
    assert (await store.read(ALL_EVENTS)).head == 4
