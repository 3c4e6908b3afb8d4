"""The check of a log ends, whatever the pages of a damaged log hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from twofold.domain.envelope import StoredEnvelope
from twofold.write_store.damage import KnownDamage
from twofold.write_store.log_check import LogRange, checked_pages
from twofold.write_store.port import LogIdentity
from twofold.write_store.verification import (
    ChecksumTotals,
    CommandRow,
    HeadRow,
    RawEvent,
    RowOfLog,
    StateRow,
    TagEntry,
)

PAGES = 20
EVENT = RawEvent(2, "type", 1, b"{}", StoredEnvelope(b"[]", b"[]"), b"")
PAGE: Mapping[str, Sequence[Any]] = {
    "events": [EVENT, EVENT._replace(position=1)],
    "index": [TagEntry("b", 1, 2, None, None), TagEntry("a", 1, 2, None, None)],
    "commands": [CommandRow(name, 1, 1, None, None, b"", 0, 0, 0) for name in ("b", "a")],
    "rows": [RowOfLog("space", name, 1, b"", 0) for name in ("b", "a")],
}


class EndlessLog:
    """A log in which one part has the same page after each page, as where an index is damaged."""

    retention = 0

    def __init__(self, endless: str) -> None:
        self.identity = LogIdentity("main-1", 1)
        self.damage = KnownDamage()
        self._endless = endless
        self._read = 0

    def _page(self, part: str) -> Sequence[Any]:
        if part != self._endless:
            return ()
        self._read += 1
        assert self._read < PAGES, "the check would never end"
        return PAGE[part]

    def raw_log(self) -> "EndlessLog":
        return self

    def raw_state(self) -> "EndlessLog":
        return self

    async def head(self) -> HeadRow:
        return HeadRow(9, b"", 1, b"", None, None, "main-1")

    async def events(self, after: int, limit: int) -> Sequence[RawEvent]:
        return self._page("events")

    async def index(self, after: TagEntry | None, limit: int) -> Sequence[TagEntry]:
        return self._page("index")

    async def commands(self, after: str, limit: int) -> Sequence[CommandRow]:
        return self._page("commands")

    async def rows(self, after: tuple[str, str], limit: int) -> Sequence[RowOfLog]:
        return self._page("rows")

    async def remembered(self, command_ids: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        return {}

    async def state(self) -> StateRow:
        return StateRow([])

    async def totals(self) -> ChecksumTotals:
        return ChecksumTotals(0, 0, 0, 0)

    async def storage(self) -> Sequence[str]:
        return ()


@pytest.mark.parametrize("part", PAGE)
async def test_the_check_of_a_part_whose_pages_never_end_ends_and_says_so(part: str) -> None:
    found: list[str] = []
    async for page in checked_pages(EndlessLog(part), LogRange(1, 9, 9), page=2, now=lambda: 0):
        found += [damage.message for damage in page.damages]
    assert any("are not in the order of their keys" in message for message in found)
