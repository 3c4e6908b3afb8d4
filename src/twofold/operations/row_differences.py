"""How two observations of a key compare, and the fields in which their rows differ."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from twofold.domain.events import Position
from twofold.operations.row_equality import normalised, rows_equal
from twofold.operations.row_inspector import RowObservation


class FieldDifference(msgspec.Struct, frozen=True):
    """The two values of a field that differs. A value is left out if its row has no such field."""

    before: Any | msgspec.UnsetType = msgspec.UNSET
    after: Any | msgspec.UnsetType = msgspec.UNSET


class Difference(msgspec.Struct, frozen=True):
    """A key whose rows differ: where each was changed last (None: there is no row), and the fields that differ.

    `error` says how a row is corrupt, or why the fold makes no row, if so.
    """

    key: str
    before: Position | None
    after: Position | None
    fields: dict[str, FieldDifference]
    error: str | None = None


def compare_rows(
    one: RowObservation, other: RowObservation, row_type: type | None = None
) -> Literal["same", "different", "parked"] | None:
    """How two observations of a key compare; None if they may belong to different positions."""
    if one.parked or other.parked:
        return "parked"
    if one.corruption or other.corruption:
        return "different"
    if one.row is None and other.row is None:
        return "same"
    if not _share_a_position(one, other):
        return None
    return "same" if rows_equal(one.row, other.row, row_type) else "different"


def difference(
    key: str, before: RowObservation, after: RowObservation, row_type: type | None, error: str | None = None
) -> Difference:
    """The difference of two rows, for people. A row that is not an object is one field without a name."""
    old, new = _fields(before.row), _fields(after.row)
    old_values, new_values = old, new
    if row_type is not None:
        old_values, new_values = (_fields(normalised(seen.row, row_type)) for seen in (before, after))
    fields = {
        name: FieldDifference(old.get(name, msgspec.UNSET), new.get(name, msgspec.UNSET))
        for name in dict.fromkeys([*old, *new])
        if not (name in old and name in new and rows_equal(old_values[name], new_values[name]))
    }
    errors = " ".join(filter(None, [before.corruption, after.corruption, error]))
    return Difference(key, _changed_at(before), _changed_at(after), fields, errors or None)


def _changed_at(seen: RowObservation) -> Position | None:
    """Where a row was changed last, or where it was read if that is not known."""
    if not seen.exists:
        return None
    return seen.last if seen.position is None else seen.position


def _fields(row: Any | None) -> Mapping[str, Any]:
    if row is None:
        return {}
    return cast("Mapping[str, Any]", row) if isinstance(row, dict) else {"": row}


def _share_a_position(one: RowObservation, other: RowObservation) -> bool:
    """Whether there is a position at which both are certain to be the state."""
    for absent, present in ((one, other), (other, one)):
        if absent.row is None:
            return present.first <= absent.first and absent.last <= present.last
    return max(one.first, other.first) <= min(one.last, other.last)
