"""In charge of what no type can refuse: JSON that parsers read differently, or that some store could not keep.

Every byte from outside passes here once, so that all stores see the same, whatever each of them would make of it.
"""

import json
import math
from typing import Any, NoReturn

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
    _check_values(parsed)


def check_text(text: str, field: str) -> None:
    """InvalidMessage if `text` holds what some store cannot keep: NUL, a lone surrogate, or too much."""
    if "\0" in text:
        raise InvalidMessage(f"{field} contains the character U+0000, which cannot be stored. Remove it.", field=field)
    if len(text) > MAX_STRING:
        raise InvalidMessage(f"{field} is longer than {MAX_STRING} characters. Shorten it.", field=field)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidMessage(f"{field} contains half of a surrogate pair. Send whole characters.", field=field) from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidMessage(f"The key '{key[:64]}' stands twice in one object. Send it once.", field=key[:64])
            seen.add(key)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidMessage(f"{name} is not a JSON number. Send a finite number or null.")


def _check_values(parsed: Any) -> None:
    todo: list[tuple[Any, str, int]] = [(parsed, "", 1)]
    keys = 0
    while todo:
        value, path, depth = todo.pop()
        kind = type(value)
        if kind is str:
            check_text(value, path or "the body")
        elif kind is int:
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise InvalidMessage(f"{path or 'the body'} is beyond ±2^53 and would be rounded by some readers.", field=path)
        elif kind is float:
            if not math.isfinite(value):
                raise InvalidMessage(f"{path or 'the body'} is too large for a number.", field=path)
        elif kind is dict or kind is list:
            if depth > MAX_DEPTH:
                raise InvalidMessage(f"{path[:200]} is nested deeper than {MAX_DEPTH} levels. Flatten it.", field=path[:200])
            if kind is dict:
                keys += len(value)
                for key in value:
                    check_text(key, "a key")
                todo.extend((inner, f"{path}.{key}" if path else key, depth + 1) for key, inner in value.items())
            else:
                todo.extend((inner, f"{path}[{i}]", depth + 1) for i, inner in enumerate(value))
            if keys > MAX_KEYS:
                raise InvalidMessage(f"The body has more than {MAX_KEYS} keys. Split it.")
