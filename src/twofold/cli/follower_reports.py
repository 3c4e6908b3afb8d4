"""In charge of how far all that follows a log has come, looked at from outside, by what the two stores keep."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from twofold.app import App
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.read_store.port import Checkpoint, Parked, ReadStore
from twofold.status import lag_of
from twofold.synchronization.cluster_state import ClusterState, read_cluster_state
from twofold.synchronization.policy_storage import policy_checkpoints
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.port import WriteStore

SAMPLE_SECONDS = 0.5
WATCH_SECONDS = 1.0


class PartStanding(msgspec.Struct, frozen=True):
    """How far one partition of a projection has come. `owner` is the node that follows for it, where that is noted."""

    partition: str
    position: Position
    lag: int
    owner: str | None


class FollowerReport(msgspec.Struct, frozen=True):
    """How far a follower has come. `lag` counts events, `lag_seconds` is the age of the oldest not taken, `rate` is
    events per second between two looks, `freshness` the objective in seconds, where the app is known and declares one;
    `problem` is a sentence, None if it is healthy."""

    name: str
    kind: str
    generation: int | None
    position: Position
    lag: int
    lag_seconds: float
    rate: float
    parked: Sequence[Parked]
    problem: str | None
    owner: str | None
    freshness: float | None
    partitions: list[PartStanding]


class BuildStanding(msgspec.Struct, frozen=True):
    """How far a generation has come that does not serve ("building", "standby"), or serves older code ("serving").

    `error` says why a key is set aside, the first one of `parked`, or what a partition is halted by; None where no key
    is.
    """

    name: str
    generation: int
    version: int
    state: str
    position: Position
    lag: int
    rate: float
    parked: int
    owner: str | None
    error: str | None = None


class Overview(msgspec.Struct, frozen=True):
    """All followers of one log."""

    log: str
    head: Position
    healthy: bool
    followers: list[FollowerReport]
    builds: list[BuildStanding]


class _Part(msgspec.Struct, frozen=True):
    name: str
    position: Position
    owner: str | None


class _Seen(msgspec.Struct, frozen=True):
    """One look at one generation of a projection, or at a policy. `log` is empty where it has not begun."""

    kind: str
    name: str
    log: str
    generation: int | None = None
    state: str = "serving"
    version: int = 0
    parts: Sequence[_Part] = ()
    parked: Sequence[Parked] = ()
    builder: str | None = None
    halted: Position | None = None

    @property
    def position(self) -> Position:
        return min((each.position for each in self.parts), default=0)

    @property
    def error(self) -> str | None:
        """Why a key is set aside: the one that others wait behind, if they do."""
        halting = next((each for each in self.parked if each.position == self.halted), None)
        if halting is not None:
            return f"halted before position {halting.position} ({halting.key}): {halting.error}"
        return next(
            (f"{each.key} is set aside at position {each.position}: {each.error}" for each in self.parked), None
        )

    @property
    def owner(self) -> str | None:
        owners = {each.owner for each in self.parts}
        return self.builder or (owners.pop() if len(owners) == 1 else None)


_Look = dict[tuple[str, int | None], _Seen]


async def overviews(
    app: App | None, write_store: WriteStore, read_store: ReadStore, world: World, max_lag: float
) -> AsyncIterator[Overview]:
    """One overview after another: the first after a sample for the rates, then one each second."""
    before, at = await _look(app, write_store, read_store), world.monotonic()
    pause = SAMPLE_SECONDS
    while True:
        await world.sleep(pause)
        now, then = await _look(app, write_store, read_store), world.monotonic()
        head = (await write_store.read(NO_EVENTS)).head
        served = _served(app, now)
        rates = {key: (seen.position - before.get(key, seen).position) / (then - at) for key, seen in now.items()}
        standings = [await _judge(app, now[key], rates[key], write_store, head, world, max_lag) for key in served]
        builds = [
            BuildStanding(
                seen.name,
                key[1] or 0,
                seen.version,
                seen.state,
                seen.position,
                max(0, head - seen.position),
                round(rates[key], 1),
                len(seen.parked),
                seen.owner,
                seen.error,
            )
            for key, seen in now.items()
            if key not in served and seen.version
        ]
        healthy = all(each.problem is None for each in standings)
        yield Overview(write_store.identity.log, head, healthy, standings, builds)
        before, at, pause = now, then, WATCH_SECONDS


async def _look(app: App | None, write_store: WriteStore, read_store: ReadStore) -> _Look:
    checkpoints = await read_store.checkpoints()
    board = await read_cluster_state(write_store, read_store.identity)
    groups: dict[tuple[str, int], list[Checkpoint]] = {}
    for each in checkpoints:
        groups.setdefault((each.name, each.generation), []).append(each)
    seen: _Look = {key: _projection(board, *key, group) for key, group in groups.items()}
    for name, (position, parked) in (await policy_checkpoints(write_store)).items():
        part = _Part("", position, _owner(board, WorkUnit("policy", name)))
        seen[name, None] = _Seen("policy", name, write_store.identity.stamp, parts=[part], parked=parked)
    if app is None:
        return seen
    missing = app.wiring.policies.keys() - {name for name, generation in seen if generation is None}
    absent: _Look = {(name, None): _Seen("policy", name, "") for name in sorted(missing)}
    known = {**dict.fromkeys(app.models, True), **dict.fromkeys(app.wiring.policies, False)}
    ours = {key: each for key, each in seen.items() if known.get(key[0]) == (each.kind == "projection")}
    return ours | absent


def _projection(board: ClusterState, name: str, generation: int, checkpoints: Sequence[Checkpoint]) -> _Seen:
    build = board.generations(name).record.builds.get(generation)
    share = WorkUnit("build", name, generation)
    parts = [
        _Part(
            at.partition.name,
            at.progress.position,
            _owner(board, WorkUnit("projection", name, generation, at.partition)),
        )
        for at in checkpoints
    ]
    return _Seen(
        "projection",
        name,
        next((at.progress.log for at in checkpoints if at.progress.log), ""),
        generation,
        "serving" if build is None else build.state,
        0 if build is None else build.version,
        parts,
        [parked for at in checkpoints for parked in at.progress.parked],
        _owner(board, share) if build is not None and build.state == "building" else None,
        # What is set aside beyond the checkpoint is what a whole partition waits behind.
        next((p.position for at in checkpoints for p in at.progress.parked if p.position > at.progress.position), None),
    )


def _owner(board: ClusterState, share: WorkUnit) -> str | None:
    """The name of the node that has the lease of a share. On a log with one writer nodes are not noted."""
    node = board.nodes.get(board.lease(share.resource).record.owner)
    return None if node is None else node.record.name


def _served(app: App | None, looks: _Look) -> list[tuple[str, int | None]]:
    """What stands for each name: a policy, or the generation that serves the app's version (else the newest one)."""
    chosen: dict[str, tuple[str, int | None]] = {}
    for key, seen in sorted(looks.items(), key=lambda each: (each[0][0], each[1].version, each[0][1] or 0)):
        wanted = None if app is None or seen.kind == "policy" else app.wiring.projections[seen.name].version
        # One that is noted nowhere was built over another log, or before generations were noted: better than nothing.
        if seen.state == "serving" and (wanted is None or seen.version in (0, wanted)):
            chosen[seen.name] = key
    never = {} if app is None else {name: (name, 0) for name in app.models if name not in chosen}
    for key in never.values():
        looks.setdefault(key, _Seen("projection", key[0], "", 0))
    return sorted((chosen | never).values(), key=lambda key: (looks[key].kind == "policy", key[0]))


async def _judge(
    app: App | None, seen: _Seen, rate: float, write_store: WriteStore, head: Position, world: World, max_lag: float
) -> FollowerReport:
    position = seen.position
    lag, seconds = await lag_of(write_store, position, head, world)
    freshness = app.wiring.projections[seen.name].freshness if app and seen.kind == "projection" else None
    return FollowerReport(
        seen.name,
        seen.kind,
        seen.generation,
        position,
        lag,
        round(seconds, 3),
        round(rate, 1),
        seen.parked,
        _problem(seen, write_store, rate, seconds, freshness, max_lag),
        seen.owner,
        freshness,
        [PartStanding(each.name, each.position, max(0, head - each.position), each.owner) for each in seen.parts],
    )


def _problem(
    seen: _Seen, write_store: WriteStore, rate: float, seconds: float, freshness: float | None, max_lag: float
) -> str | None:
    if seen.position and not write_store.identity.holds(seen.log, seen.position):
        return f"follows another log ({seen.log}); delete the read database, it is built anew"
    if seen.halted is not None:
        return f"halted before position {seen.halted}: mend what fails, then retry or skip it"
    if seen.parked:
        return f"{len(seen.parked)} parked: mend what fails, then retry it"
    if freshness is not None and seconds > freshness:
        return f"misses its objective of {freshness:g} s"
    if seconds > max_lag:
        return "too far behind" if rate else "stands still"
    return None
