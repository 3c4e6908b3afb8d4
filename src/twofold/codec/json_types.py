"""The types that msgspec reads JSON by: their families, and what is inside one of them."""

from collections.abc import Sequence

from msgspec import inspect

SCALARS = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)
SETS = (inspect.SetType, inspect.FrozenSetType)
ORDERED = (inspect.ListType, inspect.VarTupleType, inspect.CollectionType)
LISTS = (*SETS, *ORDERED)
PLACES = (inspect.TupleType, inspect.NamedTupleType)
RECORDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
Record = inspect.StructType | inspect.DataclassType | inspect.TypedDictType


def without_metadata(kind: inspect.Type) -> inspect.Type:
    """The type inside of what it is annotated with."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """The members of a union, or the one type itself, without metadata."""
    kind = without_metadata(kind)
    return tuple(map(without_metadata, kind.types)) if isinstance(kind, inspect.UnionType) else (kind,)


def places(kind: inspect.Type) -> Sequence[inspect.Type] | None:
    """The type at each place of an array of fixed length, the tag of a record left out; None for other types."""
    if isinstance(kind, inspect.TupleType):
        return kind.item_types
    if isinstance(kind, inspect.NamedTupleType) or (isinstance(kind, inspect.StructType) and kind.array_like):
        return [field.type for field in kind.fields]
    return None


def parts(kind: inspect.Type) -> Sequence[inspect.Type]:
    """The types directly inside a type: of its members, items, keys, values, places or fields."""
    if isinstance(kind, inspect.Metadata):
        return (kind.type,)
    if isinstance(kind, inspect.UnionType):
        return kind.types
    if isinstance(kind, LISTS):
        return (kind.item_type,)
    if isinstance(kind, inspect.DictType):
        return (kind.key_type, kind.value_type)
    if isinstance(kind, RECORDS):
        return [field.type for field in kind.fields]
    return places(kind) or ()
