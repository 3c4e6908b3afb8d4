"""The rows of inline projections: read, compared with a plain fold of the log, and filled by deposits."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.command_service.service_helpers import Services
from tests.sample_domains.bank import INLINE_BANK, Deposit
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module, Wiring
from twofold.write_store.inline_state import COMPLETE, InlineProjection, read_inline_state
from twofold.write_store.port import Appended, WriteStore


async def stored(write_store: WriteStore, module: Module = INLINE_BANK) -> dict[str, dict[str, Any]]:
    """The rows of every inline projection that are there, by projection and key."""
    found: dict[str, dict[str, Any]] = {}
    for projection in Wiring([module]).projections.values():
        kept = InlineProjection(projection)
        rows = await write_store.rows(kept.space)
        found[kept.name] = {key: kept.read(key, row).row for key, row in rows.items() if key != COMPLETE}
    return found


async def folded(write_store: WriteStore, module: Module = INLINE_BANK) -> dict[str, dict[str, Any]]:
    """What those rows must be: a plain fold of the log, made here."""
    wiring = Wiring([module])
    decode = Services(write_store, module).codec.decode
    found: dict[str, dict[str, Any]] = {}
    after = 0
    # A page ends after some megabytes.
    while events := (await write_store.read(ALL_EVENTS, after)).events:
        after = events[-1].position
        for recorded in events:
            event = decode(recorded)
            for projection in wiring.projections.values():
                rows = found.setdefault(projection.name, {})
                for key in projection.keys(event) if type(event) in projection.events else ():
                    rows[key] = projection.fold(rows.get(key), event, key, recorded)
    return {name: {key: row for key, row in rows.items() if row is not None} for name, rows in found.items()}


async def check_rows(write_store: WriteStore, module: Module = INLINE_BANK) -> int:
    """AssertionError unless every inline row is the fold of the log, and all are complete. The head."""
    head = (await write_store.read(ALL_EVENTS, limit=1)).head
    assert await stored(write_store, module) == (
        await folded(write_store, module) or {name: {} for name in names(module)}
    )
    noted = await read_inline_state(write_store)
    assert noted.listed == {projection.name: projection.version for projection in module.projections}
    for projection in Wiring([module]).projections.values():
        kept = InlineProjection(projection)
        assert noted.built[kept.label][0].state == "complete"
        assert COMPLETE in await write_store.rows(kept.space, [COMPLETE])
    return head


def names(module: Module) -> list[str]:
    return [projection.name for projection in module.projections]


async def deposits(services: Services, accounts: Sequence[str], *, start: int = 0) -> list[Appended]:
    """The result of a deposit into each account, all sent at once."""
    sent = [services.handle(Deposit(account, n + 100), f"d-{start}-{n}") for n, account in enumerate(accounts, start)]
    return await asyncio.gather(*sent)
