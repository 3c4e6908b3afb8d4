"""The hash chain of a log: what ties a position to the events up to it.

The chain at a position is SHA-256 over the chain at the position before and the digest of the event's stored bytes, so
two logs that have the same chain at a position hold the same events up to there. The construction is that of a hash
list; RFC 9162 describes the tree form of it.
"""

from functools import cache
from hashlib import sha256

from twofold.domain.events import RecordedEvent

LENGTH = 32
DIGEST_BYTES = 8
"""Bytes of the chain that are stored with a position: enough to tell histories apart that nobody forged."""


def chain_start(log: str) -> bytes:
    """The chain at position 0 of a log."""
    return sha256(log.encode()).digest()


def content_digest(type: str, version: int, head: bytes, payload: bytes) -> bytes:
    """The digest of an event's stored bytes. Its tags are not in it: they follow from the payload, and may be added.

    Hashed are version, length of the type, length of the head (each in decimal digits, and a space), then type, head
    and payload.
    """
    lengths, name = _beginning(type, version)
    return sha256(b"%b%d %b%b%b" % (lengths, len(head), name, head, payload)).digest()


@cache
def _beginning(type: str, version: int) -> tuple[bytes, bytes]:
    name = type.encode()
    return b"%d %d " % (version, len(name)), name


def link(chain: bytes, content: bytes) -> bytes:
    """The chain at a position, from the chain at the position before and the digest of the event."""
    return sha256(chain + content).digest()


def chain_after(chain: bytes, event: RecordedEvent) -> bytes:
    """The chain at an event's position as it follows from the stored bytes, whatever chain is stored with it."""
    return link(chain, content_digest(event.type, event.version, event.stored_envelope.head, event.payload))


def chain_digest(chain: bytes) -> str:
    """The digest of a chain: its first bytes, as hexadecimal digits. It is stored and shown with a position."""
    return chain[:DIGEST_BYTES].hex()
