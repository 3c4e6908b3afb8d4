"""In charge of what no type can refuse: JSON that parsers read differently, or that some store could not keep.

Every byte from outside passes here once, so that all stores see the same, whatever each of them would make of it.
"""

import json
import math
from typing import Any, NoReturn, cast

from twofold.errors import InvalidMessage

MAX_DEPTH = 64
MAX_KEYS = 10_000
MAX_STRING = 256 * 1024
MAX_INTEGER = 2**53


def check_json(body: bytes) -> None:
    """InvalidMessage unless `body` is JSON that every parser and every store reads alike.

    Refused are: invalid UTF-8, a byte order mark, duplicate keys, NaN and infinities, integers beyond ±2^53, NUL, lone
    surrogates, more than 64 levels, 10,000 keys or 256 KiB in one string.
    """
    try:
        parsed = json.loads(body.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"The body is not UTF-8 (byte {error.start}). Send JSON encoded as UTF-8.") from error
    except RecursionError as error:
        raise InvalidMessage(f"The body is nested deeper than {MAX_DEPTH} levels. Flatten it.") from error
    except ValueError as error:
        raise InvalidMessage(f"The body is not JSON: {error}.") from error
    check_values(parsed)


def check_text(text: str, field: str) -> None:
    """InvalidMessage if `text` holds what some store cannot keep: NUL, a lone surrogate, or too much."""
    try:
        _check_string(text)
    except _Misfit as misfit:
        raise InvalidMessage(f"{field} {misfit.problem}", field=field) from None


def check_values(parsed: Any) -> None:
    """InvalidMessage, naming the place, unless what was parsed keeps the limits that `check_json` lists."""
    _Walk().check(parsed, 1)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                shown = _shown(key)
                raise InvalidMessage(f"The key '{shown}' stands twice in one object. Send it once.", field=shown)
            seen.add(key)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidMessage(f"{name} is not a JSON number. Send a finite number or null.")


def _shown(key: str) -> str:
    """A key from outside, fit to be shown: what cannot be sent or printed stands there as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key[:64])


class _Misfit(Exception):
    """What is wrong with a value; its path is put together on the way out, so that good values cost no path."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []


class _Walk:
    """One walk over a parsed value, counting keys."""

    def __init__(self) -> None:
        self._keys = 0

    def check(self, value: Any, depth: int) -> None:
        try:
            self._check(value, depth)
        except _Misfit as misfit:
            path = "".join(reversed(misfit.path)).lstrip(".")[:200]
            raise InvalidMessage(f"{path or 'The body'} {misfit.problem}", field=path or None) from None

    def _check(self, value: Any, depth: int) -> None:
        kind = cast("object", type(value))
        if kind is str:
            _check_string(value)
        elif kind is int:
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise _Misfit("is beyond ±2^53 and would be rounded by some readers. Send it as text.")
        elif kind is float:
            if not math.isfinite(value):
                raise _Misfit("is too large for a number, or none. Send a finite number or null.")
        elif kind is dict:
            self._check_object(value, depth)
        elif kind is list:
            self._check_list(value, depth)

    def _check_list(self, items: list[Any], depth: int) -> None:
        _check_depth(depth)
        place = 0
        try:
            for item in items:
                self._check(item, depth + 1)
                place += 1
        except _Misfit as misfit:
            misfit.path.append(f"[{place}]")
            raise

    def _check_object(self, fields: dict[str, Any], depth: int) -> None:
        _check_depth(depth)
        self._keys += len(fields)
        if self._keys > MAX_KEYS:
            raise _Misfit(f"brings the number of keys beyond {MAX_KEYS}. Split the body.")
        place = ""
        try:
            for place, value in fields.items():
                _check_string(place)
                self._check(value, depth + 1)
        except _Misfit as misfit:
            misfit.path.append(f".{_shown(place)}")
            raise


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Misfit(f"is nested deeper than {MAX_DEPTH} levels. Flatten it.")


def _check_string(text: str) -> None:
    if "\0" in text:
        raise _Misfit("contains the character U+0000, which cannot be stored. Remove it.")
    if len(text) > MAX_STRING:
        raise _Misfit(f"is longer than {MAX_STRING} characters. Shorten it.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise _Misfit("contains half of a surrogate pair. Send whole characters.") from None
