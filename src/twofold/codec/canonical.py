"""Canonical JSON: the same bytes for equal values."""

from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="deterministic").encode


def encode(value: Any) -> bytes:
    """JSON with the keys of dicts and the items of sets in order. TypeError for what JSON cannot hold."""
    try:
        return _encode(value)
    except TypeError:
        # Keys that are not text (dict[int, str]) can be sorted only in the form they have in JSON.
        return _encode(msgspec.to_builtins(value, str_keys=True, order="deterministic"))
