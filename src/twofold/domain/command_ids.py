"""Ids of commands: the space that callers cannot name, and ids derived under the secret of a log."""

import hashlib
import uuid

from twofold.errors import InvalidMessage

RUNTIME = "~"
"""Command ids and names of actors that begin with this are those of Twofold itself: no caller can use them."""


def refuse_runtime_id(command_id: str, field: str) -> None:
    """InvalidMessage for an id of a caller that is in the space of the runtime."""
    if command_id.startswith(RUNTIME):
        raise InvalidMessage(
            f"A command id may not begin with '{RUNTIME}': such ids are those of policies. Use another id, for "
            "example a UUID.",
            field=field,
        )


def derived_id(secret: bytes, *parts: object) -> str:
    """A UUID as text, always the same for the same parts. It cannot be computed without the secret."""
    # Each part with its length: ("a", "bc") and ("ab", "c") are different parts.
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return str(uuid.UUID(bytes=hashlib.blake2b(text.encode(), key=secret, digest_size=16).digest(), version=4))


def command_id_of_policy(key: str, index: int) -> str:
    """The id of the n-th command (from 0) with which a policy answers an event; `key` is the id of its reaction."""
    return f"{RUNTIME}{key}" if index == 0 else f"{RUNTIME}{key}.{index}"


def command_id_of_append(nonce: int, number: int) -> str:
    """The id of an append that has no command: the n-th one of a call of the write store.

    It differs from all ids of policies by its form: a UUID has a dash after eight digits.
    """
    return f"{RUNTIME}{nonce:016x}.{number}"


APPEND_ID_PATTERN = f"^{RUNTIME}[0-9a-f]{{16}}[.][0-9]+$"
"""Matches what `command_id_of_append` returns, and no other id; as a regular expression of Python and of PostgreSQL."""
