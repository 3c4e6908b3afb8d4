"""Strict parsing of JSON: refuses what parsers read differently and what some store cannot keep.

Types cannot refuse these things. All data from outside is checked here once, so that every store accepts the same data.
"""

import json
import math
from typing import Any, NoReturn, cast

from twofold.errors import InvalidMessage

MAX_DEPTH = 64
MAX_KEYS = 10_000
MAX_STRING = 256 * 1024
MAX_INTEGER = 2**53


def parse_strictly(body: bytes) -> Any:
    """What `body` says. InvalidMessage unless it is JSON that every parser and every store reads alike.

    Refused are: invalid UTF-8, a byte order mark, duplicate keys, NaN and infinities, integers beyond ±2^53, NUL, lone
    surrogates, more than 64 levels, 10,000 keys or 256 KiB in one string.
    """
    try:
        parsed = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"The body is not UTF-8 (byte {error.start}). Send JSON encoded as UTF-8.") from error
    except RecursionError as error:
        raise InvalidMessage(f"The body is nested deeper than {MAX_DEPTH} levels. Flatten it.") from error
    except ValueError as error:
        raise InvalidMessage(f"The body is not JSON: {error}.") from error
    check_values(parsed)
    return parsed


def check_text(text: str, field: str) -> None:
    """InvalidMessage if `text` holds what some store cannot keep: NUL, a lone surrogate, or too many characters."""
    try:
        _check_string(text)
    except Misfit as misfit:
        raise InvalidMessage(f"{field} {misfit.problem}", field=field) from None


def check_values(parsed: Any) -> None:
    """InvalidMessage, naming the field, unless a parsed value keeps the limits that `parse_strictly` lists."""
    try:
        _Walk().check(parsed, 1)
    except Misfit as misfit:
        raise misfit.refusal() from None


def printable(key: str) -> str:
    """A key from outside, fit to be shown: an escape stands for each character that cannot be sent or printed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key[:64])


class Misfit(Exception):
    """What is wrong with a value. Its path is collected on the way out, so that valid values cost no path."""

    def __init__(self, problem: str, *path: str) -> None:
        self.problem = problem
        self.path = list(path)

    def refusal(self) -> InvalidMessage:
        """The error for the caller: it names the field and the problem."""
        path = "".join(reversed(self.path)).lstrip(".")[:200]
        return InvalidMessage(f"{path or 'The body'} {self.problem}", field=path or None)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                shown = printable(key)
                raise InvalidMessage(f"The key '{shown}' is repeated in one object. Send it once.", field=shown)
            seen.add(key)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidMessage(f"{name} is not a JSON number. Send a finite number or null.")


class _Walk:
    """One walk over a parsed value, counting keys."""

    def __init__(self) -> None:
        self._keys = 0

    def check(self, value: Any, depth: int) -> None:
        kind = cast("object", type(value))
        if kind is str:
            _check_string(value)
        elif kind is int:
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise Misfit("is beyond ±2^53 and would be rounded by some readers. Send it as text.")
        elif kind is float:
            if not math.isfinite(value):
                raise Misfit("is too large for a number, or is not a number. Send a finite number or null.")
        elif kind is dict:
            self._check_object(value, depth)
        elif kind is list:
            self._check_list(value, depth)

    def _check_list(self, items: list[Any], depth: int) -> None:
        _check_depth(depth)
        index = 0
        try:
            for item in items:
                self.check(item, depth + 1)
                index += 1
        except Misfit as misfit:
            misfit.path.append(f"[{index}]")
            raise

    def _check_object(self, fields: dict[str, Any], depth: int) -> None:
        _check_depth(depth)
        self._keys += len(fields)
        if self._keys > MAX_KEYS:
            raise Misfit(f"brings the number of keys beyond {MAX_KEYS}. Split the body.")
        key = ""
        try:
            for key, value in fields.items():
                _check_string(key)
                self.check(value, depth + 1)
        except Misfit as misfit:
            misfit.path.append(f".{printable(key)}")
            raise


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Misfit(f"is nested deeper than {MAX_DEPTH} levels. Flatten it.")


def _check_string(text: str) -> None:
    if "\0" in text:
        raise Misfit("contains the character U+0000, which cannot be stored. Remove it.")
    if len(text) > MAX_STRING:
        raise Misfit(f"is longer than {MAX_STRING} characters. Shorten it.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Misfit("contains half of a surrogate pair. Send whole characters.") from None
