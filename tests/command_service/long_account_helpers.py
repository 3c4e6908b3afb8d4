"""Accounts with a long history, written to a log without any command."""

from tests.sample_domains.bank import DECISIONS, EVENTS, MODELS, AccountId, Deposited
from twofold.codec import EventCodec
from twofold.domain.envelope import Metadata
from twofold.domain.events import Event
from twofold.domain.module import Module
from twofold.write_store.port import Append, WriteStore

BANK = Module("bank", events=EVENTS, models=MODELS, decisions=DECISIONS)
_CODEC = EventCodec([Event(event) for event in EVENTS])


async def pay_in(store: WriteStore, account: AccountId, deposits: int, *, start: int = 0) -> None:
    """Write so many deposits of one cent."""
    for first in range(start, start + deposits, 5_000):
        last = min(first + 5_000, start + deposits)
        events = [_CODEC.encode(Deposited(account, 1), f"{account}-{n}", 0) for n in range(first, last)]
        await store.append([Append(Metadata(0, "fill", "fill"), tuple(events))])
