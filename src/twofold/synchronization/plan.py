"""In charge of who should follow for what: pure, so that every node comes to the same end on what it sees."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from twofold.synchronization.work_unit import WorkUnit


class Plan(NamedTuple):
    """What a node should do now: ask for the leases of some shares, give others back."""

    claim: list[WorkUnit]
    release: list[WorkUnit]


def plan(
    shares: Sequence[WorkUnit],
    owners: Mapping[WorkUnit, str | None],
    me: str,
    nodes: Collection[str],
    reserved: Mapping[WorkUnit, str] | None = None,
) -> Plan:
    """What `me` should claim and release, so that all `nodes` have nearly equally many shares.

    `owners` says whose each share is now (None: nobody's, or a dead node's). A node that is not among `nodes` came for
    these shares only, and takes all that are free. `reserved` shares go to one node whatever it has already.
    """
    wanted = reserved or {}
    mine = [share for share in sorted(shares) if owners.get(share) == me]
    free = [share for share in sorted(shares) if owners.get(share) is None]
    claim = [share for share in free if wanted.get(share) == me]
    release = [share for share in mine if wanted.get(share, me) != me]
    others = [share for share in free if share not in wanted]
    if me not in nodes:
        return Plan([*claim, *others], release)
    # The first nodes by name take what is left over: so all come to the same end, and nothing moves to and fro.
    fair = len(shares) // len(nodes) + (sorted(nodes).index(me) < len(shares) % len(nodes))
    kept = [share for share in mine if share not in release]
    room = fair - len(kept) - len(claim)
    if room < 0:
        release += [share for share in reversed(kept) if share not in wanted][:-room]
    return Plan([*claim, *others[: max(0, room)]], release)
