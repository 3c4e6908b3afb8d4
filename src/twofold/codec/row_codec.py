"""In charge of rows as bytes, where they are kept with the log: what a fold returned, and what is read back."""

from collections.abc import Callable
from typing import Any

import msgspec

from twofold.codec.canonical import encode
from twofold.codec.event_codec import refuse_what_json_has_not


class RowCodec:
    """Turns the rows of one type into JSON and back. WiringError where the type has no JSON form."""

    def __init__(self, row: type) -> None:
        refuse_what_json_has_not(row)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(row).decode

    def written(self, row: Any) -> tuple[bytes, Any]:
        """The stored form of a row, and the row as everyone will read it.

        TypeError where JSON cannot hold it, msgspec.ValidationError where it could not be read back.
        """
        value = encode(row)
        return value, self._decode(value)

    def decode(self, value: bytes) -> Any:
        """The row. msgspec.ValidationError where it does not fit the type."""
        return self._decode(value)
