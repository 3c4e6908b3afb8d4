"""Query strings: which query types can be written in them, and strict reading of their fields."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect

from twofold.codec.edge import printable
from twofold.codec.json_types import LISTS, SCALARS, members
from twofold.errors import InvalidMessage, WiringError
from twofold.http.limits import Limits

POSITION = "position"
"""The parameter that carries the token of a receipt; the header Twofold-Position may carry it instead."""

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class QueryParameter(msgspec.Struct, frozen=True):
    """One name that a query string may have; `many` says that it may be repeated."""

    name: str
    many: bool = False
    required: bool = False


def parameters_of(query: type) -> dict[str, QueryParameter]:
    """The parameters of a query type. WiringError, with the cure, for a type that a query string cannot express."""
    info = inspect.type_info(query)
    if not isinstance(info, inspect.StructType | inspect.DataclassType):
        raise WiringError(f"{query.__qualname__}: a query is a msgspec Struct or a dataclass.")
    if isinstance(info, inspect.StructType) and info.array_like:
        raise WiringError(f"{query.__qualname__} is array_like, and a query string has names. Drop array_like=True.")
    parameters: dict[str, QueryParameter] = {}
    for field in info.fields:
        name = field.encode_name
        if name == POSITION:
            raise WiringError(
                f"{query.__qualname__}.{name}: over HTTP `{name}` is the token of a receipt. Rename the field."
            )
        many = _is_list(field.type)
        if not many and not _is_scalar(field.type):
            raise WiringError(
                f"{query.__qualname__}.{name} cannot be written in a query string. Use numbers, text, dates, enums, "
                "or lists of them; write the fields of a record as separate fields."
            )
        parameters[name] = QueryParameter(name, many, field.required)
    return parameters


def read_parameters(raw: bytes, known: Mapping[str, QueryParameter], limits: Limits) -> dict[str, Any]:
    """The fields of a query string: text, or a list of texts where a name may be repeated.

    InvalidMessage, naming the parameter, for broken escapes, bytes that are no UTF-8, unknown names, names that are
    repeated and must not be, and names that are missing.
    """
    fields: dict[str, Any] = {}
    for name, value in _pairs(raw, limits) if raw else []:
        parameter = known.get(name)
        if parameter is None:
            shown = printable(name)
            names = ", ".join(known) or "none"
            raise InvalidMessage(f"Unknown parameter '{shown}'. Parameters: {names}.", field=shown)
        if parameter.many:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise InvalidMessage(f"The parameter '{name}' is repeated. Send it once.", field=name)
        else:
            fields[name] = value
    for name, parameter in known.items():
        if parameter.required and name not in fields:
            raise InvalidMessage(f"The parameter '{name}' is missing. Add ?{name}=… to the address.", field=name)
    return fields


def limit_of(fields: Mapping[str, Any], most: int) -> int:
    """The parameter `limit`, 100 if it is not there. InvalidMessage unless it is a number from 1 to `most`."""
    return whole_number(fields.get("limit", "100"), "limit", 1, most)


def whole_number(text: str, name: str, least: int, most: int) -> int:
    """The number in a parameter. InvalidMessage unless it is a whole number from `least` to `most`."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise InvalidMessage(f"{name} is a whole number from {least} to {most}.", field=name)
    return int(text)


def _pairs(raw: bytes, limits: Limits) -> list[tuple[str, str]]:
    if len(raw) > limits.query_bytes:
        raise InvalidMessage(f"The query string is longer than {limits.query_bytes} bytes. Shorten it.")
    if _BROKEN_ESCAPE.search(raw):
        raise InvalidMessage("In the query string a percent sign is not followed by two hex digits. Write it as %25.")
    try:
        return parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=limits.query_fields
        )
    except UnicodeDecodeError as error:
        raise InvalidMessage("The query string is not percent-encoded UTF-8. Encode it.") from error
    except ValueError as error:
        raise InvalidMessage(f"The query string has more than {limits.query_fields} fields. Send fewer.") from error


def _is_scalar(kind: inspect.Type) -> bool:
    return all(isinstance(member, SCALARS) for member in members(kind))


def _is_list(kind: inspect.Type) -> bool:
    several = [member for member in members(kind) if not isinstance(member, inspect.NoneType)]
    return len(several) == 1 and isinstance(several[0], LISTS) and _is_scalar(several[0].item_type)
