"""States of decision models as bytes, for snapshots."""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

from twofold.codec.event_codec import refuse_types_without_json
from twofold.codec.json_types import parts
from twofold.errors import WiringError

_encode = msgspec.json.Encoder().encode


class StateCodec:
    """Turns the states of one type into JSON and back. WiringError where JSON would not tell all of a state.

    Unlike canonical JSON it keeps the order of a dict, on which a state may depend.
    """

    def __init__(self, state: type) -> None:
        refuse_types_without_json(state)
        _refuse_any(state)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(state).decode

    def encode(self, state: Any) -> bytes:
        """The JSON of a state. TypeError where JSON cannot hold it."""
        return _encode(state)

    def decode(self, value: bytes | msgspec.Raw) -> Any:
        """The state. msgspec.DecodeError where it is not JSON, msgspec.ValidationError where it does not fit."""
        return self._decode(value)


def _refuse_any(state: type) -> None:
    todo = [inspect.type_info(state)]
    seen: set[int] = set()
    while todo:
        kind = todo.pop()
        if isinstance(kind, inspect.AnyType | inspect.RawType):
            raise WiringError(f"{state.__qualname__} has a field that may hold anything. Give it a type.")
        if id(kind) not in seen:
            seen.add(id(kind))
            todo += parts(kind)
