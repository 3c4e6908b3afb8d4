"""Request bodies as messages: strict parsing, the type, and its known fields, in one walk over the body."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from twofold.codec.edge import MAX_DEPTH, MAX_INTEGER, MAX_KEYS, MAX_STRING, Misfit, parse_strictly
from twofold.codec.known_fields import shape_of
from twofold.codec.misfit_sentences import misfit_sentence
from twofold.errors import InvalidMessage

_parse = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_ONE_DIGIT = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * len(str(MAX_INTEGER))
_RISKY_ESCAPE = re.compile(rb"\\u(?:0000|003[aA]|[dD][89a-fA-F])")
"""NUL, a colon, or half of a surrogate pair."""
_LONG_NUMBER = re.compile(rb"(?<![0-9.])[0-9]{%d,}" % len(_LONG))


class RequestDecoder:
    """Decodes bodies from outside into one type."""

    def __init__(self, kind: type) -> None:
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
        depth, self._check_fields = shape_of(kind)
        self._shallow = depth <= MAX_DEPTH

    def __call__(self, body: bytes) -> Any:
        """`body` as an instance of the type. InvalidMessage, naming field and cure, if it does not fit.

        Most bodies can be proved valid cheaply. Only the others are parsed by `parse_strictly`, which is slower and
        says what is wrong.
        """
        try:
            if self._is_plain(body):
                message = self._decode(body)
                parsed = _parse(body)
                # A parsed object holds each key once. So the same number of colons means that no key was repeated.
                if _encode(parsed).count(b":") == body.count(b":"):
                    if self._check_fields is not None:
                        self._check_fields(parsed)
                    return message
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Misfit):
            pass
        return self._decode_strictly(body)

    def _is_plain(self, body: bytes) -> bool:
        """Whether nothing that `parse_strictly` refuses can be in `body`, if it is JSON without duplicate keys."""
        return (
            len(body) <= MAX_STRING
            and body.count(b":") <= MAX_KEYS
            and (self._shallow or body.count(b"{") + body.count(b"[") <= MAX_DEPTH)
            and (b"\\u" not in body or _RISKY_ESCAPE.search(body) is None)
            and (_LONG not in body.translate(_ONE_DIGIT) or _are_small(body))
        )

    def _decode_strictly(self, body: bytes) -> Any:
        parsed = parse_strictly(body)
        try:
            message = self._decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise invalid(error) from error
        try:
            if self._check_fields is not None:
                self._check_fields(parsed)
        except Misfit as misfit:
            raise misfit.refusal() from None
        return message


def invalid(error: Exception) -> InvalidMessage:
    """A msgspec error as ours, which names the field and says what it must be."""
    sentence = misfit_sentence(error)
    return InvalidMessage(f"{sentence.about('The body')}.", field=sentence.field or None)


def _are_small(body: bytes) -> bool:
    return all(len(number) == len(_LONG) and int(number) <= MAX_INTEGER for number in _LONG_NUMBER.findall(body))
