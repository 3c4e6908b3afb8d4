"""In charge of what a read model lets itself be asked: declared filters and orders only, continued by a cursor."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from twofold.errors import InvalidMessage, UndeclaredAccess
from twofold.read_store.columns import Column, ColumnValue
from twofold.read_store.port import ReadModel

_Mark = tuple[str, ColumnValue, str]


class Access(msgspec.Struct, frozen=True):
    """One find, checked. `after` is the order value and the key to continue behind; `order` None orders by key.

    `group` holds the filtered fields as declared. Descending turns the whole order round, ties and None included.
    `matches_nothing`: no row can have the values that are asked for, and what they became is not to be looked for.
    """

    group: tuple[str, ...]
    values: tuple[ColumnValue, ...]
    order: str | None
    descending: bool
    limit: int
    after: tuple[ColumnValue, str] | None
    find: str
    matches_nothing: bool = False

    def cursor(self, value: ColumnValue, key: str) -> str:
        """The cursor that continues this find behind the row of `key`, whose order value is `value`."""
        return base64.urlsafe_b64encode(msgspec.json.encode((self.find, value, key))).decode().rstrip("=")


def check_access(
    model: ReadModel,
    columns: Mapping[str, Column],
    filters: Mapping[str, Any],
    order_by: str | None,
    descending: bool,
    limit: int,
    cursor: str | None,
) -> Access:
    """A find as `Snapshot.find` takes it, checked against what the model declares; raises what is said there."""
    if limit < 1:
        raise InvalidMessage(f"A find returns 1 row or more, not {limit}.", field="limit")
    group = _group(model, filters)
    if order_by is not None and order_by not in model.order_by:
        raise UndeclaredAccess(
            f"The projection '{model.name}' is not declared to be ordered by '{order_by}'. "
            f"Declare it: {_suggest('order_by', model.order_by, order_by)}.",
            field=order_by,
        )
    values = tuple(columns[field].value(filters[field]) for field in group)
    find = _fingerprint(model, group, values, order_by, descending)
    order = None if order_by is None or order_by in group else columns[order_by]
    after = _after(cursor, find, order) if cursor is not None else None
    matches_nothing = not all(columns[field].may_hold(filters[field]) for field in group)
    return Access(group, values, order.field if order else None, descending, limit, after, find, matches_nothing)


def _group(model: ReadModel, filters: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = set(filters)
    for group in ((), *model.find_by):
        if wanted == set(group):
            return group
    fields = tuple(filters)
    named = " and ".join(f"'{field}'" for field in fields)
    raise UndeclaredAccess(
        f"The projection '{model.name}' is not declared to be found by {named}. "
        f"Declare it: {_suggest('find_by', model.find_by, fields[0] if len(fields) == 1 else fields)}.",
        field=fields[0],
    )


def _suggest(option: str, declared: tuple[Any, ...], missing: object) -> str:
    shown = f'"{missing}"' if isinstance(missing, str) else str(missing).replace("'", '"')
    return f"{option}=[…, {shown}]" if declared else f"{option}=[{shown}]"


def _fingerprint(
    model: ReadModel, group: tuple[str, ...], values: tuple[ColumnValue, ...], order: str | None, descending: bool
) -> str:
    identity = (model.name, dict(zip(group, values, strict=True)), order, descending)
    return hashlib.blake2s(msgspec.json.encode(identity, order="sorted"), digest_size=8).hexdigest()


def _after(cursor: str, find: str, order: Column | None) -> tuple[ColumnValue, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        made_for, value, key = msgspec.json.decode(text, type=_Mark)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidMessage(
            "This cursor is not one we gave. Start again from the first page.", field="after"
        ) from error
    if made_for != find or not _fits(value, order):
        raise InvalidMessage(
            "This cursor belongs to another question. Continue with the same filters and order.", field="after"
        )
    return value, key


def _fits(value: ColumnValue, order: Column | None) -> bool:
    if value is None or order is None:
        return value is None
    return isinstance(value, order.stored_as) and (not isinstance(value, int) or -(2**63) <= value < 2**63)


def is_text(key: str) -> bool:
    """Whether a key can be kept at all: half of a surrogate pair is no text in any store."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
