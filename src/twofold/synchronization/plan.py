"""Which node should follow which work unit: a pure function, so that all nodes that see the same decide the same."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from twofold.synchronization.work_unit import WorkUnit


class Plan(NamedTuple):
    """What a node should do now: claim the leases of some work units, and release those of others."""

    claim: list[WorkUnit]
    release: list[WorkUnit]


def plan(
    units: Sequence[WorkUnit],
    owners: Mapping[WorkUnit, str | None],
    me: str,
    nodes: Collection[str],
    reserved: Mapping[WorkUnit, str] | None = None,
) -> Plan:
    """What `me` should claim and release, so that all `nodes` have nearly equally many units.

    `owners` names the owner of each unit (None: it is free, or its owner has expired). A node that is not among `nodes`
    runs a maintenance session, and takes all units that are free. `reserved` units go to one node, whatever it has.
    """
    reserved_for = reserved or {}
    mine = [unit for unit in sorted(units) if owners.get(unit) == me]
    free = [unit for unit in sorted(units) if owners.get(unit) is None]
    claim = [unit for unit in free if reserved_for.get(unit) == me]
    release = [unit for unit in mine if reserved_for.get(unit, me) != me]
    others = [unit for unit in free if unit not in reserved_for]
    if me not in nodes:
        return Plan([*claim, *others], release)
    # The first nodes by name get what the division leaves over. So all nodes agree, and no unit moves twice.
    fair = len(units) // len(nodes) + (sorted(nodes).index(me) < len(units) % len(nodes))
    keep = [unit for unit in mine if unit not in release]
    room = fair - len(keep) - len(claim)
    if room < 0:
        release += [unit for unit in reversed(keep) if unit not in reserved_for][:-room]
    return Plan([*claim, *others[: max(0, room)]], release)
