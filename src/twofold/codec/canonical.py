"""In charge of the bytes we write: JSON, the same for equal values."""

from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="deterministic").encode


def encode(value: Any) -> bytes:
    """JSON with the keys of dicts and the items of sets in order. TypeError for what JSON cannot hold."""
    try:
        return _encode(value)
    except TypeError:
        # Keys that are no text (dict[int, str]) can be put in order only as the text that JSON makes of them.
        return _encode(msgspec.to_builtins(value, str_keys=True, order="deterministic"))
