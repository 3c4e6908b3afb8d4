"""In charge of telling how far read models have come: where they stand and what is parked, in one read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from twofold.read_store.mongodb.names import PARKED, parked_of
from twofold.read_store.mongodb.standing import Stand, Standing
from twofold.read_store.port import Checkpoint, Parked, Progress

Documents = Iterable[Mapping[str, Any]]

_SET_ASIDE: Mapping[str, Any] = {"position": {"$exists": True}}
"""What only keys have that are parked now."""


def reading(model: str | None = None) -> list[dict[str, Any]]:
    """What to ask the checkpoints' collection, of all models or of the one with this id."""
    mine = {"_id": parked_of(model)} if model is not None else {}
    parked = {"coll": PARKED, "pipeline": [{"$match": {**mine, **_SET_ASIDE}}]}
    return [{"$match": {} if model is None else {"_id": model}}, {"$unionWith": parked}]


def progress_of(found: Documents) -> Progress:
    """The progress of one model, from the answer."""
    standings, parked = _parted(found)
    if not standings:
        return Progress(0, "", 0)
    (standing,) = standings
    stands = list(standing.parts.values())
    lowest = min(stands, key=lambda each: each.position)
    updated = max(each.updated for each in stands)
    return Progress(lowest.position, lowest.log, updated, parked.get(standing.id, ()))


def checkpoints_of(found: Documents) -> list[Checkpoint]:
    """Where each partition of all models stands, from the answer."""
    standings, parked = _parted(found)
    listed: list[Checkpoint] = []
    for standing in sorted(standings, key=lambda each: (each.name, each.generation)):
        aside = parked.get(standing.id, ())
        for share, stand in standing.parts.items():
            mine = tuple(each for each in aside if share.holds(each.key))
            listed.append(Checkpoint(standing.name, standing.generation, _progress(stand, mine), share, stand.epoch))
    return listed


def _progress(stand: Stand, parked: tuple[Parked, ...]) -> Progress:
    return Progress(stand.position, stand.log, stand.updated, parked)


def _parted(found: Documents) -> tuple[Sequence[Standing], Mapping[str, tuple[Parked, ...]]]:
    """Where models stand, and their parked keys in order by the model's id."""
    standings: list[Standing] = []
    parked: dict[str, list[Parked]] = {}
    for document in found:
        if "partitions" in document:
            standings.append(msgspec.convert(document, Standing))
        else:
            model, _, key = document["_id"].partition("/")
            parked.setdefault(model, []).append(msgspec.convert({**document, "key": key}, Parked))
    return standings, {model: tuple(sorted(keys, key=_key)) for model, keys in parked.items()}


def _key(parked: Parked) -> str:
    return parked.key
