"""Reading forms, with limits."""

from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from twofold import InvalidMessage

C = TypeVar("C")

MAX_FORM = 64 * 1024
MAX_FIELDS = 500


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, trimmed; the last one of a repeated name. InvalidMessage if it cannot be read."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            raise InvalidMessage("This form is too long. Please start again from the shop.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidMessage("This form could not be read. Please start again from the shop.") from error
    fields = {name: value.strip() for name, value in pairs}
    if any("\0" in text for pair in fields.items() for text in pair):
        raise InvalidMessage("A form cannot hold the character U+0000. Please remove it.")
    return fields


def command_from(kind: type[C], fields: dict[str, Any]) -> C:
    """Fields as a command. InvalidMessage, with the field, if they do not fit."""
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidMessage(f"That does not fit: {error}.") from error
