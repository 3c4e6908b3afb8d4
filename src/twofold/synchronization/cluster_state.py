"""The cluster state: what nodes write about themselves and their work, as rows of the write store.

A row is written only if it still has the version that was read.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.events import Position
from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import ReadStoreRows
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World, microseconds
from twofold.write_store.port import Append, LogRow, Outcome, RowWrite, WriteStore

SPACE = "synchronization"
ACTS = "acts"

T = TypeVar("T", bound=msgspec.Struct)


class Node(msgspec.Struct, frozen=True):
    """A process that follows the log. Each write of its row is a heartbeat.

    `read_store` is the identity of its read store: nodes divide projections only with nodes that have the same one.
    `maintenance`: it runs a maintenance session, and takes no part in the division. `follows` lists what it can follow,
    in the form that `versioned_name` makes: nodes with two versions of the code can run side by side.
    """

    name: str
    read_store: str
    maintenance: bool = False
    follows: tuple[str, ...] = ()


class Lease(msgspec.Struct, frozen=True):
    """The node that may follow a work unit; "" if none. `epoch` rises with each new owner."""

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

    def with_changes(self, changes: Mapping[int, Generation | None]) -> "Generations":
        """The same with some builds changed, or taken out (None)."""
        builds = {number: each for number, each in (self.builds | dict(changes)).items() if each is not None}
        return Generations(builds, max(self.last, *builds, 0))


class Request(msgspec.Struct, frozen=True):
    """What an operator asks of the node that follows a projection or policy. `at` is in microseconds.

    `read_store` is the read store, and `version` the version of the projection. For a policy they are "" and 0.
    `position` is where a key to be skipped was parked when the operator saw it; None if that does not matter.
    """

    what: Literal["retry", "skip", "repair", "split", "merge"]
    name: str
    key: str
    actor: str | None
    at: int
    read_store: str
    version: int = 0
    position: Position | None = None


class OperatorAction(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a request: what was done, and whether it succeeded. It is stored for ever.

    `generation` is 0 if it concerns none. `read_store` is the read store it was done in; "" for a policy.
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


class Pause(msgspec.Struct, frozen=True):
    """A projection or policy is not followed until it is resumed. `since` is in microseconds since 1970 in UTC.

    `position` is the event before which a policy was paused because its answer is beyond the limit of causation depth.
    It is 0 for a pause that the operator `actor` asked for.
    """

    reason: str
    actor: str | None
    since: int
    position: int = 0

    @property
    def sentence(self) -> str:
        """Why it is paused, and how it goes on."""
        if self.position:
            return (
                f"It is paused: {self.reason} Fix the policies, or raise max_causation_depth, restart, and resume it. "
                f"Or resume it with `skip` {self.position}: then it leaves that event out."
            )
        by = "" if self.actor is None else f" by {self.actor}"
        because = f": {self.reason.rstrip('.')}" if self.reason else ""
        return f"It is paused{by}{because}. Resume it to let it go on."


class Versioned(msgspec.Struct, Generic[T], frozen=True):
    """A record and the version of the row it came in."""

    record: T
    version: int = 0


class ClusterState(msgspec.Struct, frozen=True):
    """All rows, as of one read."""

    nodes: dict[str, Versioned[Node]]
    leases: dict[str, Versioned[Lease]]
    projections: dict[str, Versioned[Generations]]
    requests: dict[str, Versioned[Request]]
    skips: int = 0
    """The number of skips on record. When it changes, nodes read the skipped events again."""
    pauses: dict[str, Versioned[Pause]] = {}
    """What is paused, by the name of the projection or policy."""

    def generations(self, name: str) -> Versioned[Generations]:
        """The generations of a projection; none if it is new."""
        return self.projections.get(name, Versioned(Generations()))

    def versions(self, name: str) -> set[int]:
        """The versions of a projection that any node can follow."""
        known = [followed.rpartition("@") for row in self.nodes.values() for followed in row.record.follows]
        return {int(version) for other, _, version in known if other == name}

    def lease(self, name: str) -> Versioned[Lease]:
        """The lease of a work unit; one without an owner if it is new."""
        return self.leases.get(name, Versioned(Lease("", 0)))


class ClusterStateStore:
    """Reads and writes the cluster state. `append` writes rows in one commit with the commands that wait.

    Nodes of one log may have different read stores. Rows about projections belong to one of them, `read_store`, and
    nodes with another one do not see them. Rows about policies belong to all nodes.
    """

    def __init__(
        self,
        write_store: WriteStore,
        append: Callable[[Append], Awaitable[Outcome]],
        world: World,
        read_store: ReadStoreRows,
    ) -> None:
        self._rows = read_store
        self._write_store = write_store
        self._append = append
        self._world = world

    @property
    def read_store(self) -> str:
        """The identity of the read store. Unavailable as long as it is not known: nothing was read from it yet."""
        if not self._rows.identity:
            raise Unavailable("The read store has not been reached yet, so it is not known which one it is.")
        return self._rows.identity

    async def read(self) -> ClusterState:
        """The cluster state as it is now. Without projections, as long as it is not known which read store it is."""
        return await read_cluster_state(self._write_store, self._rows.identity)

    async def write(self, *writes: RowWrite) -> bool:
        """Write all rows, and return True. If one has changed since it was read, write none, and return False."""
        metadata = Metadata(microseconds(self._world.now()), "synchronization", "synchronization")
        outcome = await self._append(Append(metadata, rows=tuple(writes)))
        return not isinstance(outcome, Conflict)

    async def actions(self, keys: Sequence[str] | None = None) -> dict[str, OperatorAction]:
        """The records of requests, by the id of the request."""
        return await operator_actions(self._write_store, keys)

    def node(self, name: str, record: Node | None, seen: int) -> RowWrite:
        """Write the row of a node, or remove it."""
        return _write(SPACE, f"node:{name}", record, seen)

    def lease(self, unit: WorkUnit, record: Lease | None, seen: int) -> RowWrite:
        """Write the lease of a work unit, or remove it."""
        read_store = "" if unit.generation is None else self.read_store
        return _write(SPACE, f"lease:{read_store}:{unit.lease_name}", record, seen)

    def generations(self, name: str, record: Generations, seen: int) -> RowWrite:
        """Write the generations of a projection."""
        return _write(SPACE, f"generations:{self.read_store}:{name}", record, seen)

    def request(self, name: str, record: Request | None, seen: int) -> RowWrite:
        """Write a request, or remove it."""
        return _write(SPACE, f"request:{name}", record, seen)

    def action(self, name: str, record: OperatorAction) -> RowWrite:
        """Put on record what was done."""
        return _write(ACTS, name, record, 0)

    def skip(self, seen: int) -> RowWrite:
        """Raise the number of skips, so that all nodes read them again."""
        return RowWrite(SPACE, f"skips:{self.read_store}", b"", seen)

    def pause(self, name: str, record: Pause | None, seen: int, *, policy: bool) -> RowWrite:
        """Write that a projection or policy is paused, or remove it."""
        return pause_row("" if policy else self.read_store, name, record, seen)

    def now(self) -> int:
        """The wall clock in microseconds."""
        return microseconds(self._world.now())


async def read_cluster_state(write_store: WriteStore, read_store: str) -> ClusterState:
    """The cluster state in a write store, for nodes with this read store."""
    rows = await write_store.rows(SPACE)
    return ClusterState(
        _records(rows, "node:", Node),
        _records(rows, f"lease:{read_store}:", Lease) | _records(rows, "lease::", Lease),
        _records(rows, f"generations:{read_store}:", Generations),
        {
            name: row
            for name, row in _records(rows, "request:", Request).items()
            if row.record.read_store in ("", read_store)
        },
        rows[f"skips:{read_store}"].version if f"skips:{read_store}" in rows else 0,
        _records(rows, f"pause:{read_store}:", Pause) | _records(rows, "pause::", Pause),
    )


async def operator_actions(write_store: WriteStore, keys: Sequence[str] | None = None) -> dict[str, OperatorAction]:
    """The records of operators' requests, by the id of the request: all of them, the oldest first, or some."""
    rows = await write_store.rows(ACTS, keys)
    actions = {key: msgspec.json.decode(row.value, type=OperatorAction) for key, row in rows.items()}
    return dict(sorted(actions.items(), key=lambda item: (item[1].at, item[0])))


def skipped_events(
    actions: Iterable[OperatorAction], name: str, version: int, read_store: str
) -> frozenset[tuple[str, int]]:
    """The events that operators skipped in the read model of a projection: key and position of each."""
    wanted = ("skip", name, version, read_store)
    return frozenset(
        (a.key, a.position) for a in actions if a.done and (a.what, a.name, a.version, a.read_store) == wanted
    )


def pause_row(read_store: str, name: str, record: Pause | None, seen: int) -> RowWrite:
    """Write that something is paused, or remove it. `read_store` is that of a projection, "" for a policy."""
    return _write(SPACE, f"pause:{read_store}:{name}", record, seen)


def versioned_name(name: str, version: int) -> str:
    """How the row of a node names what it can follow: a name, and the version of a projection (0 for a policy)."""
    return f"{name}@{version}"


def _write(space: str, key: str, record: msgspec.Struct | None, seen: int) -> RowWrite:
    return RowWrite(space, key, None if record is None else msgspec.json.encode(record), seen)


def _records(rows: Mapping[str, LogRow], prefix: str, kind: type[T]) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): Versioned(msgspec.json.decode(row.value, type=kind), row.version)
        for key, row in rows.items()
        if key.startswith(prefix)
    }
