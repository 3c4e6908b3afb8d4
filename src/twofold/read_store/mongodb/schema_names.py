"""The names of collections, read models and columns in MongoDB. No two things get the same name."""

import hashlib
import re

CHECKPOINTS = "checkpoints"
PARKED = "parked"
IDENTITY = "identity"

_LONGEST = 100
_SHORTENED = 60
_ESCAPED = re.compile("(?:%[0-9a-f]{2})+")
_SPECIAL = re.compile("[^A-Za-z0-9_-]")


def id_of(name: str, generation: int) -> str:
    """The id of one generation of a read model: ASCII without slash, and short. A long name is cut, plus a digest."""
    short = _escape(name)
    if len(short) > _LONGEST:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        # No escaped name has a tilde.
        short = f"{short[:_SHORTENED]}~{digest}"
    return f"{short}@{generation}"


def rows_collection(model_id: str) -> str:
    return f"rows.{model_id}"


def parked_ids(model_id: str) -> dict[str, str]:
    """The range of the ids of all parked keys of a read model."""
    # "0" is next to "/", which separates model and key.
    return {"$gte": f"{model_id}/", "$lt": f"{model_id}0"}


def column_name(field: str, kind: str) -> str:
    return f"{_escape(field)}:{kind}"


def field_and_kind(column: str) -> tuple[str, str]:
    """The field and the kind of a column, given by its name."""
    name, _, kind = column.rpartition(":")
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode(errors="replace"), name), kind


def _escape(name: str) -> str:
    """A name without characters that have a meaning in MongoDB."""
    return _SPECIAL.sub(lambda match: "".join(f"%{b:02x}" for b in match[0].encode("utf-8", "surrogatepass")), name)
