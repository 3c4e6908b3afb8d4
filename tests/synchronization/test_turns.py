"""A follower far behind the head gives other tasks of the event loop a turn after a bounded number of events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Total,
    TotalOf,
    add_up,
    count,
    total_of,
)
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import Change
from twofold.read_store.sqlite import SqliteReadStore
from twofold.synchronization.folding import STEP

EVENTS = 3_000


class Turns:
    """Counts what is done between two turns of another task."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def done(self, what: str, times: int = 1) -> None:
        self._now[what] = self._now.get(what, 0) + times
        self.most[what] = max(self.most.get(what, 0), self._now[what])

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        async def other() -> None:
            while True:
                self._now.clear()
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        yield
        task.cancel()


@pytest.mark.parametrize("read_store", ["sqlite", "memory with large saves"])
async def test_no_more_than_a_step_is_done_between_two_turns_of_other_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_store: str
) -> None:
    turns = Turns()

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        turns.done("folded")
        return add_up(row, event, counter)

    module = Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", fold, key=CounterId)],
        queries=[total_of],
    )
    store: Any = SqliteReadStore if read_store == "sqlite" else MemoryReadStore
    if read_store != "sqlite":
        monkeypatch.setattr(store, "save_events", 5_000)
    save = store.save

    async def counted_save(self: Any, change: Change) -> None:
        turns.done("saved", len(change.rows))
        await save(self, change)

    url = f"sqlite:///{tmp_path}/views.db" if read_store == "sqlite" else "memory:"
    async with App(module, write_store=f"sqlite:///{tmp_path}/log.db", read_store="memory:") as app:
        await asyncio.gather(*(app.send(Count([f"c{n}"], 1)) for n in range(EVENTS)))
    app = App(module, write_store=f"sqlite:///{tmp_path}/log.db", read_store=url)
    monkeypatch.setattr(store, "save", counted_save)
    decode = app.events.decode

    def counted_decode(recorded: Any) -> Any:
        turns.done("decoded")
        return decode(recorded)

    monkeypatch.setattr(app.events, "decode", counted_decode)
    turns.most.clear()
    async with turns.counted(), app:
        await until(lambda: at_head(app), "caught up")
        assert (await app.ask(TotalOf(f"c{EVENTS - 1}"))).value.total == 1
    assert turns.most["folded"] <= STEP
    assert turns.most["decoded"] <= STEP
    assert turns.most["saved"] <= (500 if read_store == "sqlite" else EVENTS)


async def at_head(app: App) -> bool:
    return all(follower.lag == 0 for follower in (await app.status()).followers)
