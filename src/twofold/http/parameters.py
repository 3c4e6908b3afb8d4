"""In charge of query strings: which fields of a query type they can spell, and reading them without guessing."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect

from twofold.codec.json_types import LISTS, SCALARS, members
from twofold.errors import InvalidMessage, WiringError
from twofold.http.limits import Limits

POSITION = "position"
"""The parameter that carries the token of a receipt; the header Twofold-Position may carry it instead."""

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Parameter(msgspec.Struct, frozen=True):
    """One name a query string may carry; `many` says that it may stand there more than once."""

    name: str
    many: bool = False
    required: bool = False


def parameters_of(query: type) -> dict[str, Parameter]:
    """The parameters that spell a query type. WiringError, with the cure, for what a query string cannot express."""
    info = inspect.type_info(query)
    if not isinstance(info, inspect.StructType | inspect.DataclassType):
        raise WiringError(f"{query.__qualname__}: a query is a msgspec Struct or a dataclass.")
    if isinstance(info, inspect.StructType) and info.array_like:
        raise WiringError(f"{query.__qualname__} is array_like, and a query string has names. Drop array_like=True.")
    found: dict[str, Parameter] = {}
    for field in info.fields:
        name = field.encode_name
        if name == POSITION:
            raise WiringError(
                f"{query.__qualname__}.{name}: over HTTP this name carries the token of a receipt. Rename the field."
            )
        many = _is_list(field.type)
        if not many and not _is_scalar(field.type):
            raise WiringError(
                f"{query.__qualname__}.{name} cannot be written in a query string. Use numbers, text, dates, enums, "
                "or lists of them; spread a record over fields of its own."
            )
        found[name] = Parameter(name, many, field.required)
    return found


def read_parameters(raw: bytes, known: Mapping[str, Parameter], limits: Limits) -> dict[str, Any]:
    """The fields of a query string: text, or a list of texts where a name may be repeated.

    InvalidMessage, naming the parameter, for broken escapes, bytes that are no UTF-8, names nobody knows, names that
    stand twice and may not, and names that are missing.
    """
    if not raw:
        pairs: list[tuple[str, str]] = []
    else:
        pairs = _pairs(raw, limits)
    fields: dict[str, Any] = {}
    for name, value in pairs:
        parameter = known.get(name)
        if parameter is None:
            shown = "".join(c if c.isprintable() else "?" for c in name[:64])
            names = ", ".join(known) or "none"
            raise InvalidMessage(f"There is no parameter '{shown}' here. There are: {names}.", field=shown)
        if parameter.many:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise InvalidMessage(f"The parameter '{name}' stands twice. Send it once.", field=name)
        else:
            fields[name] = value
    for name, parameter in known.items():
        if parameter.required and name not in fields:
            raise InvalidMessage(f"The parameter '{name}' is missing. Add ?{name}=… to the address.", field=name)
    return fields


def _pairs(raw: bytes, limits: Limits) -> list[tuple[str, str]]:
    if len(raw) > limits.query_bytes:
        raise InvalidMessage(f"A query string has {limits.query_bytes} bytes at most. Ask for less at once.")
    if _BROKEN_ESCAPE.search(raw):
        raise InvalidMessage("A percent sign in the query string is not followed by two hex digits. Write it as %25.")
    try:
        return parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=limits.query_fields
        )
    except UnicodeDecodeError as error:
        raise InvalidMessage("The query string is not UTF-8, percent-encoded. Encode it so.") from error
    except ValueError as error:
        raise InvalidMessage(f"A query string has {limits.query_fields} fields at most. Ask for less.") from error


def _is_scalar(kind: inspect.Type) -> bool:
    return all(isinstance(member, SCALARS) for member in members(kind))


def _is_list(kind: inspect.Type) -> bool:
    several = [member for member in members(kind) if not isinstance(member, inspect.NoneType)]
    return len(several) == 1 and isinstance(several[0], LISTS) and _is_scalar(several[0].item_type)
