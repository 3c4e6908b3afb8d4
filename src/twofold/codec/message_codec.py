"""Commands, queries and rows as bytes, and their JSON Schema."""

import hashlib
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from twofold.codec.canonical import encode
from twofold.codec.edge import check_values
from twofold.codec.request_decoder import invalid


class MessageCodec:
    """Turns commands, queries and rows into JSON and back, by type."""

    def __init__(self) -> None:
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {}

    def encode(self, message: object) -> bytes:
        """JSON, the same bytes for equal messages."""
        return encode(message)

    def request_hash(self, name: str, message: object, sender: str = "") -> bytes:
        """A hash of name, content and sender, 16 bytes: different requests under one command id have different hashes.

        `sender` is who sends it: the receipt of one is not for another.
        """
        content = encode(message) + sender.encode()
        person = f"{len(sender)}".encode() if sender else b""
        return hashlib.blake2b(content, digest_size=16, key=name.encode()[:64], person=person).digest()

    def decode(self, kind: type, payload: bytes) -> Any:
        """Bytes we wrote ourselves, as an instance of `kind`."""
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        return decoder.decode(payload)

    def convert_request(self, kind: type, fields: dict[str, Any]) -> Any:
        """Fields of a query string (text values) as an instance of `kind`. InvalidMessage if they do not fit."""
        check_values(fields)
        try:
            message = cast("object", msgspec.convert(fields, kind, strict=False))
        except msgspec.ValidationError as error:
            raise invalid(error) from error
        # Text may contain NaN and numbers that JSON does not have, so the converted values are checked again.
        check_values(msgspec.to_builtins(message))
        return message

    def schemas(
        self, kinds: Iterable[Any], ref: str = "#/components/schemas/{name}"
    ) -> tuple[list[Any], dict[str, Any]]:
        """JSON Schema 2020-12 of types: one schema each (mostly references), and the shared definitions."""
        one_each, shared = msgspec.json.schema_components(list(kinds), ref_template=ref)
        return list(one_each), shared
