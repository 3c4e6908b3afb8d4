"""In charge of names: what read models and fields are called in MongoDB, each unlike any other."""

import hashlib
import re

CHECKPOINTS = "checkpoints"
PARKED = "parked"
IDENTITY = "identity"

_LONGEST = 100
_SHORTENED = 60
_ESCAPED = re.compile("(?:%[0-9a-f]{2})+")
_ODD = re.compile("[^A-Za-z0-9_-]")


def id_of(name: str, generation: int) -> str:
    """One generation of a read model, in a few bytes of ASCII without slash: as it is, or shortened with a digest."""
    short = escaped(name)
    if len(short) > _LONGEST:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        # No escaped name has a tilde.
        short = f"{short[:_SHORTENED]}~{digest}"
    return f"{short}@{generation}"


def rows_of(model: str) -> str:
    """The collection with the rows of a read model, which is given by its id."""
    return f"rows.{model}"


def parked_of(model: str) -> dict[str, str]:
    """What holds for the ids of all parked keys of a read model, which is given by its id."""
    # "0" is next to "/", behind which the key stands.
    return {"$gte": f"{model}/", "$lt": f"{model}0"}


def escaped(name: str) -> str:
    """A name as text that means nothing to MongoDB."""
    return _ODD.sub(lambda found: "".join(f"%{b:02x}" for b in found.group().encode("utf-8", "surrogatepass")), name)


def column_name(field: str, kind: str) -> str:
    """What the column value of a field is called in a document."""
    return f"{escaped(field)}:{kind}"


def field_and_kind(column: str) -> tuple[str, str]:
    """The field that a column is made for, and its kind."""
    name, _, kind = column.rpartition(":")
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), name), kind
