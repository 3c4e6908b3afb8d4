"""What is wrong with a stored event, judged from its raw row: its bytes, its chain and its entries in the index."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from twofold.domain.envelope import StoredEnvelope, decode_envelope, encode_tags
from twofold.domain.events import Position
from twofold.write_store.chain import content_digest, link, shown


class RawEvent(NamedTuple):
    """An event as it is stored. `type` is None where its number has no name; `unindexed` are tags without an entry."""

    position: Position
    type: str | None
    version: int
    payload: bytes
    stored: StoredEnvelope
    chain: bytes
    unindexed: Sequence[str] = ()


class Damage(NamedTuple):
    """What is wrong at a position, in a sentence."""

    position: Position
    message: str


def damages(raw_events: Iterable[RawEvent], after: Position, chain: bytes, head: Position) -> Iterator[Damage]:
    """What is wrong with the events after a position, where the log has `chain`, up to the head. In order.

    After a damaged event the check goes on from the chain that is stored with it, so that each damage is named once.
    """
    for raw in raw_events:
        if raw.position > head:
            yield Damage(raw.position, f"The event at {raw.position} is beyond the head, which is {head}.")
            continue
        if raw.position > after + 1:
            yield Damage(after + 1, f"{_range(after + 1, raw.position - 1)} missing.")
        elif reason := _damage(raw, chain):
            yield Damage(raw.position, f"The event at {raw.position} {reason}.")
        after, chain = raw.position, raw.chain
    if after < head:
        yield Damage(after + 1, f"{_range(after + 1, head)} missing.")


def _range(first: Position, last: Position) -> str:
    return f"The event at {first} is" if first == last else f"The events from {first} to {last} are"


def _damage(raw: RawEvent, chain: bytes) -> str | None:
    if raw.type is None:
        return "has a type without a name"
    expected = link(chain, content_digest(raw.type, raw.version, raw.stored.head, raw.payload))
    if raw.chain != expected:
        return f"does not fit the chain: its bytes give {shown(expected)}, and {shown(raw.chain)} is stored"
    try:
        tags = decode_envelope(raw.stored).tags
    except msgspec.DecodeError as error:
        return f"has an envelope that cannot be decoded ({error})"
    if encode_tags(tags) != raw.stored.tags:
        return "has tags that were not written by Twofold"
    if raw.unindexed:
        return f"is not in the index by {', '.join(tag or 'its type' for tag in raw.unindexed)}"
    return None
