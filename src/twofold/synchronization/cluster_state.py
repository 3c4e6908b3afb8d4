"""In charge of what all nodes know of one another: rows of the write store, each written only as it was last seen."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from twofold.domain.events import Metadata
from twofold.errors import Conflict
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World, microseconds
from twofold.write_store.port import Append, LogRow, Outcome, RowWrite, WriteStore

SPACE = "synchronization"
ACTS = "acts"

T = TypeVar("T", bound=msgspec.Struct)


class Node(msgspec.Struct, frozen=True):
    """A process that follows the log; each write of its row is a sign of life. A visitor came for one task only.

    `read_store` is the identity of its read store: nodes share projections out with those that have the same.
    `follows` says
    for what it can follow at all, as `followed` puts it: nodes of two versions of the code run side by side.
    """

    name: str
    read_store: str
    visitor: bool = False
    follows: tuple[str, ...] = ()


class Lease(msgspec.Struct, frozen=True):
    """Who may follow for a share. `epoch` rises with each new owner; "" owns nothing."""

    owner: str
    epoch: int


class Generation(msgspec.Struct, frozen=True):
    """One build of a projection, by the fold of `version`.

    "serving" answers queries. "building" catches up with the log before it serves. "standby" served before and is kept
    up to date, so that it can serve again at once. `began` is in microseconds since 1970 in UTC.
    """

    version: int
    state: Literal["serving", "building", "standby"]
    began: int


class Generations(msgspec.Struct, frozen=True):
    """All builds of one projection that have rows, by number. Numbers count up to `last` and are never used again."""

    builds: dict[int, Generation] = {}
    last: int = 0

    def find(self, version: int, state: str) -> int | None:
        """The newest build of a version in a state, if there is one."""
        found = [number for number, each in self.builds.items() if (each.version, each.state) == (version, state)]
        return max(found, default=None)

    def but(self, changes: Mapping[int, Generation | None]) -> "Generations":
        """The same with some builds changed, or taken out (None)."""
        builds = {number: each for number, each in (self.builds | dict(changes)).items() if each is not None}
        return Generations(builds, max(self.last, *builds, 0))


class Request(msgspec.Struct, frozen=True):
    """What an operator wants of whoever follows for a projection or policy; `at` is in microseconds.

    `read_store` is the read store it is about, `version` that of the projection; "" and 0 for a policy, which has none.
    """

    what: Literal["retry", "skip", "repair", "split", "merge"]
    name: str
    key: str
    actor: str | None
    at: int
    read_store: str
    version: int = 0


class OperatorAction(msgspec.Struct, frozen=True):
    """What was done on a request, for ever on record. `generation` 0 where it concerns no build.

    `read_store` is the read store it was done in; "" for a policy, which has none.
    """

    what: str
    name: str
    key: str
    actor: str | None
    at: int
    done: bool
    outcome: str
    generation: int = 0
    version: int = 0
    position: int = 0
    read_store: str = ""


class Versioned(msgspec.Struct, Generic[T], frozen=True):
    """A record and the version of the row it came in."""

    record: T
    version: int = 0


class ClusterState(msgspec.Struct, frozen=True):
    """Everything noted, as of one look."""

    nodes: dict[str, Versioned[Node]]
    leases: dict[str, Versioned[Lease]]
    projections: dict[str, Versioned[Generations]]
    requests: dict[str, Versioned[Request]]
    skips: int = 0
    """How often operators have had an event of a projection passed over; whoever follows looks when it changes."""

    def generations(self, name: str) -> Versioned[Generations]:
        """The builds of a projection; none where it is new."""
        return self.projections.get(name, Versioned(Generations()))

    def versions(self, name: str) -> set[int]:
        """The versions of a projection that any node can follow for."""
        known = [each.rpartition("@") for noted in self.nodes.values() for each in noted.record.follows]
        return {int(version) for each, _, version in known if each == name}

    def lease(self, resource: str) -> Versioned[Lease]:
        """The lease of a share; nobody's where it is new."""
        return self.leases.get(resource, Versioned(Lease("", 0)))


class ClusterStateStore:
    """Reads and writes what is noted. `append` writes rows in one commit with whatever else waits.

    Nodes of one log may keep read models in several read stores: what is noted of projections is of one of them,
    `read_store`, and nodes on others do not see it. Policies are everybody's.
    """

    def __init__(
        self, write_store: WriteStore, append: Callable[[Append], Awaitable[Outcome]], world: World, read_store: str
    ) -> None:
        self.read_store = read_store
        self._write_store = write_store
        self._append = append
        self._world = world

    async def read(self) -> ClusterState:
        """All that is noted now."""
        return await read_cluster_state(self._write_store, self.read_store)

    async def write(self, *writes: RowWrite) -> bool:
        """Write all rows, or none, and False, where one is no longer as it was seen."""
        metadata = Metadata(microseconds(self._world.now()), "synchronization", "synchronization")
        outcome = await self._append(Append(metadata, rows=tuple(writes)))
        return not isinstance(outcome, Conflict)

    async def actions(self, keys: Sequence[str] | None = None) -> dict[str, OperatorAction]:
        """What was done on requests, by the id of the request."""
        return await operator_actions(self._write_store, keys)

    def node(self, name: str, record: Node | None, seen: int) -> RowWrite:
        """Note a node, or that it is gone."""
        return _write(SPACE, f"node:{name}", record, seen)

    def lease(self, share: WorkUnit, record: Lease | None, seen: int) -> RowWrite:
        """Note who follows for a share, or that there is no such share any more."""
        read_store = "" if share.kind == "policy" else self.read_store
        return _write(SPACE, f"lease:{read_store}:{share.resource}", record, seen)

    def generations(self, name: str, record: Generations, seen: int) -> RowWrite:
        """Note the builds of a projection."""
        return _write(SPACE, f"generations:{self.read_store}:{name}", record, seen)

    def request(self, name: str, record: Request | None, seen: int) -> RowWrite:
        """Note a request, or that it has been dealt with."""
        return _write(SPACE, f"request:{name}", record, seen)

    def act(self, name: str, record: OperatorAction) -> RowWrite:
        """Put on record what was done."""
        return _write(ACTS, name, record, 0)

    def skip(self, seen: int) -> RowWrite:
        """Let everybody look for what is to be passed over."""
        return RowWrite(SPACE, f"skips:{self.read_store}", b"", seen)

    def now(self) -> int:
        """The wall clock in microseconds."""
        return microseconds(self._world.now())


async def read_cluster_state(write_store: WriteStore, read_store: str) -> ClusterState:
    """All that is noted of followers in a write store, as far as it is about the read store `read_store`."""
    rows = await write_store.rows(SPACE)
    return ClusterState(
        _records(rows, "node:", Node),
        _records(rows, f"lease:{read_store}:", Lease) | _records(rows, "lease::", Lease),
        _records(rows, f"generations:{read_store}:", Generations),
        {
            name: noted
            for name, noted in _records(rows, "request:", Request).items()
            if noted.record.read_store in ("", read_store)
        },
        rows[f"skips:{read_store}"].version if f"skips:{read_store}" in rows else 0,
    )


async def operator_actions(write_store: WriteStore, keys: Sequence[str] | None = None) -> dict[str, OperatorAction]:
    """What operators had done, by the ids of their requests; all of it, the oldest first, or that of some ids."""
    rows = await write_store.rows(ACTS, keys)
    acts = {key: msgspec.json.decode(row.value, type=OperatorAction) for key, row in rows.items()}
    return dict(sorted(acts.items(), key=lambda each: (each[1].at, each[0])))


def skipped_events(
    acts: Iterable[OperatorAction], name: str, version: int, read_store: str
) -> frozenset[tuple[str, int]]:
    """What operators have said to pass over in the read model of a projection: keys, and positions of events."""
    wanted = ("skip", name, version, read_store)
    return frozenset(
        (a.key, a.position) for a in acts if a.done and (a.what, a.name, a.version, a.read_store) == wanted
    )


def followed(name: str, version: int) -> str:
    """How a node's row names what it follows for: a projection in a version, or (0) a policy."""
    return f"{name}@{version}"


def _write(space: str, key: str, record: msgspec.Struct | None, seen: int) -> RowWrite:
    return RowWrite(space, key, None if record is None else msgspec.json.encode(record), seen)


def _records(rows: Mapping[str, LogRow], prefix: str, kind: type[T]) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): Versioned(msgspec.json.decode(row.value, type=kind), row.version)
        for key, row in rows.items()
        if key.startswith(prefix)
    }
