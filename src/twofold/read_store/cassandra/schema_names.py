"""The names of tables: each build of each generation of a read model has its own."""

import re
from hashlib import blake2s

import msgspec


def table_names(model: str, generation: int, build: str) -> tuple[str, str]:
    """The tables of one build of a generation: rows by key, and index entries. At most 48 characters each."""
    readable = re.sub("[^a-z0-9]+", "_", model.lower())[:10].strip("_")
    name = f"{readable}_{_digest(model, generation)}_{build}"
    return f"rows_{name}", f"finds_{name}"


def is_table_of(table: str, model: str, generation: int) -> bool:
    """Whether a table belongs to any build of a generation."""
    return re.fullmatch(rf"(rows|finds)_.*_{_digest(model, generation)}_[0-9a-f]+", table) is not None


def build_name(unique: str) -> str:
    """The name of a new build."""
    return blake2s(unique.encode(), digest_size=6).hexdigest()


def _digest(model: str, generation: int) -> str:
    return blake2s(msgspec.json.encode((model, generation)), digest_size=8).hexdigest()
