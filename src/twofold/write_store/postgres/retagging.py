"""The arguments of the SQL function `retag`."""

from collections.abc import Mapping, Sequence
from typing import Any

from twofold.domain.envelope import with_tags
from twofold.domain.events import Position


def retag_arguments(
    stored: Sequence[Sequence[Any]], tags: Mapping[Position, Sequence[str]]
) -> tuple[list[Position], list[bytes], list[bytes], list[int], list[str]]:
    """The arguments that add `tags` to events. `stored` has the position and the present tags of each of them.

    LookupError where there is no event at a position.
    """
    if len(stored) < len(tags):
        missing = sorted(tags.keys() - {position for position, _ in stored})
        raise LookupError(f"There is no event at {missing[0]}.")
    positions = [position for position, _ in stored]
    before = [present for _, present in stored]
    after = [with_tags(present, tags[position]) for position, present in stored]
    added = [(i, tag) for i, position in enumerate(positions, 1) for tag in tags[position]]
    return positions, before, after, [i for i, _ in added], [tag for _, tag in added]
