"""Rows as bytes, for rows that are stored with the log."""

from collections.abc import Callable
from typing import Any

import msgspec

from twofold.codec.canonical import encode
from twofold.codec.event_codec import refuse_types_without_json


class RowCodec:
    """Turns the rows of one type into JSON and back. WiringError where the type has no JSON form."""

    def __init__(self, row: type) -> None:
        refuse_types_without_json(row)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(row).decode

    def written(self, row: Any) -> tuple[bytes, Any]:
        """The stored form of a row, and the row as it will be read.

        TypeError where JSON cannot hold it, msgspec.ValidationError where it could not be read back.
        """
        value = encode(row)
        return value, self._decode(value)

    def decode(self, value: bytes) -> Any:
        """The row. msgspec.ValidationError where it does not fit the type."""
        return self._decode(value)
