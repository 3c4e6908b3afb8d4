"""Signed checkpoints: files outside a log that say which history it had at a position, signed with an operator's key.

Who can write to a log can change it and link it again, so that it fits itself. They cannot make a checkpoint that says
the same without the key.
"""

import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import Self

import msgspec

from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import Position
from twofold.errors import Unavailable, WiringError
from twofold.operations.durable_files import put_in_place, sync
from twofold.sqlite_lock import create_private
from twofold.write_store.chain import chain_digest, chain_start
from twofold.write_store.port import WriteStore
from twofold.write_store.verification import Damage

SHORTEST_KEY = 32
"""Bytes that a key must have."""
_MOST_BYTES = 10_000
_FORM = "twofold checkpoint 1"


class SignedCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which history a log had: the chain at a position, in hexadecimal digits. `time` is when that was verified.

    `signature` is HMAC-SHA256 (RFC 2104) over the other values, each after its name, a line for each.
    """

    log: str
    epoch: int
    position: Position
    chain: str
    time: str
    signature: str = ""

    def signed(self, key: bytes) -> Self:
        """The same with the signature under a key."""
        return msgspec.structs.replace(self, signature=self._signature(key))

    def is_signed_with(self, key: bytes) -> bool:
        """Whether the signature is the one under a key."""
        return hmac.compare_digest(self.signature.encode(), self._signature(key).encode())

    def _signature(self, key: bytes) -> str:
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "signature"}
        # JSON strings have no line breaks, so that no value looks like two.
        lines = [_FORM, *(f"{name} {msgspec.json.encode(value).decode()}" for name, value in values.items())]
        return hmac.new(key, "\n".join(lines).encode(), sha256).hexdigest()


def read_key(path: Path) -> bytes:
    """The key in a file, without white space around it. WiringError where it is too short; Unavailable without it."""
    key = _content(path).strip()
    if len(key) < SHORTEST_KEY:
        raise WiringError(
            f"The key in {path} has {len(key)} bytes, and at least {SHORTEST_KEY} are needed. Make one with "
            "`openssl rand -hex 32`."
        )
    return key


def read_checkpoint(path: Path, key: bytes) -> SignedCheckpoint:
    """The checkpoint in a file. WiringError where it is none, or is not signed with this key."""
    try:
        checkpoint = msgspec.json.decode(_content(path), type=SignedCheckpoint)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WiringError(f"{path} is not a signed checkpoint: {error}.") from error
    if not checkpoint.is_signed_with(key):
        raise WiringError(
            f"{path} is not signed with this key: the file was changed, or it was signed with another key. Name the "
            "key with which it was written."
        )
    return checkpoint


def write_checkpoint(path: Path, checkpoint: SignedCheckpoint) -> None:
    """Write a checkpoint to a file, which is replaced in one step. It is on disk afterwards. Unavailable otherwise."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        create_private(str(new))
        new.write_bytes(msgspec.json.format(msgspec.json.encode(checkpoint), indent=2) + b"\n")
        sync(new)
        put_in_place(new, path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}.") from error


async def other_history(write_store: WriteStore, checkpoint: SignedCheckpoint) -> list[Damage]:
    """Damage where a log does not have the history of a checkpoint. Its own chain must be verified up to there too."""
    position = checkpoint.position
    signed = f"The signed checkpoint of {checkpoint.time} is"
    if checkpoint.log != write_store.identity.log:
        text = f"{signed} of the log {checkpoint.log}, and this is the log {write_store.identity.log}."
        return [Damage(position, text)]
    chain = await chain_at(write_store, position)
    if chain.hex() == checkpoint.chain:
        return []
    found = f"has {chain_digest(chain)} there" if chain else "does not hold that position"
    digest = chain_digest(bytes.fromhex(checkpoint.chain))
    return [Damage(position, f"{signed} at position {position} with the digest {digest}, and the log {found}.")]


async def chain_at(write_store: WriteStore, position: Position) -> bytes:
    """The chain that is stored at a position; empty where no event is, or a damaged one."""
    if not position:
        return chain_start(write_store.identity.log)
    try:
        events = (await write_store.read(ALL_EVENTS, position - 1, limit=1)).events
    except Unavailable:
        return b""
    return events[0].chain if events and events[0].position == position else b""


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise Unavailable(f"{os.fspath(path)} cannot be read: {error.strerror}.") from error
