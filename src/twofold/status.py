"""In charge of how an app is doing: measured from log and checkpoints rather than from what followers say."""

from collections.abc import Mapping, Sequence

import msgspec

from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.read_store.port import Checkpoint, Parked
from twofold.runtime import Runtime
from twofold.synchronization.follower import BuildStatus, FollowerStatus, PartitionStatus, State
from twofold.synchronization.policy_storage import policy_checkpoints
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker
from twofold.world import World
from twofold.write_store.port import WriteStore

PROBLEM_LAG_SECONDS = 30.0
"""A follower without an objective that is this far behind, and is not catching up, is reported."""

_WORST: tuple[State, ...] = ("stopped", "retrying", "waiting", "catching-up", "elsewhere", "live")


class Status(msgspec.Struct, frozen=True):
    """How an app is doing. Counts are since start, `uptime` in seconds; `problems` are sentences, none if healthy.

    `builds` are generations beside those that serve: under way, or kept as the way back. `node` is this process.
    """

    log: str
    head: Position
    commands: int
    rejected: int
    queries: int
    uptime: float
    ready: bool
    problems: list[str]
    followers: list[FollowerStatus]
    builds: list[BuildStatus] = []
    node: str = ""


class Measured(msgspec.Struct, frozen=True):
    """What was found at one look."""

    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]
    problems: list[str]


async def lag_of(write_store: WriteStore, position: Position, head: Position, world: World) -> tuple[int, float]:
    """How far a follower is behind: in events, and as the age in seconds of the oldest event it has not taken."""
    lag = max(0, head - position)
    if not lag:
        return 0, 0.0
    oldest = (await write_store.read(ALL_EVENTS, position, 1)).events
    return lag, max(0.0, (world.now() - oldest[0].time).total_seconds()) if oldest else 0.0


async def measure(
    running: Runtime, world: World, objectives: Mapping[str, float | None], stall_seconds: float
) -> Measured:
    """Look at log and checkpoints. Unavailable where a store is away; a log that is broken off tells what was known."""
    write_store = running.write_store
    problem = write_store.problem
    try:
        head = (await write_store.read(NO_EVENTS)).head
        checkpoints = await running.read_store.checkpoints()
        positions = await running.positions(checkpoints)
        running.watch.observe(head, positions)
        policies = await policy_checkpoints(write_store)
        lags = {p: await lag_of(write_store, p, head, world) for p in dict.fromkeys(positions.values())}
    except Unavailable:
        if problem is None:
            raise
        # It answers nothing any more: what its followers had taken is all there is to tell.
        workers = running.supervisor.workers
        positions = {share: worker.position for share, worker in workers.items()}
        head = max(positions.values(), default=0)
        checkpoints, policies = [], {}
        lags = {position: (head - position, 0.0) for position in positions.values()}
    parked = {name: found for name, (_, found) in policies.items()}
    for share, worker in running.supervisor.workers.items():
        if share.kind == "policy":
            # Here is known, too, which due commands cannot be sent.
            parked[share.name] = await worker.follower.parked()
    statuses = {share: _share(running, share, at, *lags[at]) for share, at in positions.items()}
    serving = _serving(running, statuses)
    followers = [
        _follower(running, shares, {share: statuses[share] for share in shares}, checkpoints, parked, objectives)
        for shares in serving
    ]
    built = [share for share in statuses if share not in {each for shares in serving for each in shares}]
    builds = _builds(running, built, statuses, checkpoints)
    problems = [sentence for each in followers for sentence in _problems_of(each, stall_seconds)]
    problems += [each for each in (running.commands.problem, running.supervisor.problem) if each is not None]
    return Measured(head, followers, builds, problems if problem is None else [problem, *problems])


def _serving(running: Runtime, statuses: Mapping[WorkUnit, PartitionStatus]) -> list[list[WorkUnit]]:
    """The shares that answers rest on, and the policies: those of one name together."""
    groups: dict[str, list[WorkUnit]] = {}
    for share in statuses:
        if share.kind == "policy" or running.serves(share):
            groups.setdefault(share.name, []).append(share)
    return [sorted(shares) for _, shares in sorted(groups.items())]


def _share(running: Runtime, share: WorkUnit, position: Position, lag: int, seconds: float) -> PartitionStatus:
    worker: Worker | None = running.supervisor.workers.get(share)
    owner = running.supervisor.owner(share)
    state: State = worker.state if worker is not None else "elsewhere" if owner is not None else "waiting"
    still = running.watch.still(share) if lag else 0.0
    error = worker.error if worker is not None else None
    name = share.partition.name if share.kind == "projection" else ""
    return PartitionStatus(name, position, lag, seconds, state, owner, round(still, 3), error)


def _follower(
    running: Runtime,
    shares: Sequence[WorkUnit],
    statuses: Mapping[WorkUnit, PartitionStatus],
    checkpoints: Sequence[Checkpoint],
    parked: Mapping[str, tuple[Parked, ...]],
    objectives: Mapping[str, float | None],
) -> FollowerStatus:
    first = shares[0]
    late = min(statuses.values(), key=lambda each: each.position)
    states: set[State] = {each.state for each in statuses.values()}
    state: State = min(states, key=_WORST.index)
    error = next((each.error for each in statuses.values() if each.error is not None), None)
    if first.kind == "policy":
        aside = parked.get(first.name, ())
    else:
        mine = [at for at in checkpoints if (at.name, at.generation) == (first.name, first.generation)]
        aside = tuple(key for at in mine for key in at.progress.parked)
    rates = [
        worker.rate() if worker is not None else running.watch.rate(share)
        for share in shares
        for worker in (running.supervisor.workers.get(share),)
    ]
    return FollowerStatus(
        first.name,
        "policy" if first.kind == "policy" else "projection",
        late.position,
        late.lag,
        late.lag_seconds,
        sum(rates),
        state,
        error,
        aside,
        first.generation,
        objectives.get(first.name),
        tuple(statuses.values()),
    )


def _builds(
    running: Runtime,
    shares: Sequence[WorkUnit],
    statuses: Mapping[WorkUnit, PartitionStatus],
    checkpoints: Sequence[Checkpoint],
) -> list[BuildStatus]:
    groups: dict[tuple[str, int], list[WorkUnit]] = {}
    for share in sorted(shares):
        groups.setdefault((share.name, share.generation), []).append(share)
    found: list[BuildStatus] = []
    for (name, generation), group in groups.items():
        build = running.supervisor.board.generations(name).record.builds.get(generation)
        if build is None or build.state == "serving":
            continue
        late = min((statuses[share] for share in group), key=lambda each: each.position)
        rate = min(running.watch.rate(share) for share in group)
        left = 0.0 if not late.lag else round(late.lag / rate, 1) if rate else None
        parked = sum(len(at.progress.parked) for at in checkpoints if (at.name, at.generation) == (name, generation))
        errors = [worker.error_of(name, generation) for s in group if (worker := running.supervisor.workers.get(s))]
        error = next((each for each in errors if each is not None), None)
        state, position, lag, owner = build.state, late.position, late.lag, late.owner
        found.append(
            BuildStatus(name, generation, build.version, state, position, lag, rate, left, owner, parked, error)
        )
    return found


def _problems_of(follower: FollowerStatus, stall_seconds: float) -> list[str]:
    what = f"{follower.kind} '{follower.name}'"
    problems: list[str] = []
    # Each partition by itself: one that has stopped hides no other, and nothing is said of one that is of another.
    for each in follower.shares:
        which = f"{what} ({each.partition})" if each.partition and len(follower.shares) > 1 else what
        if each.state == "stopped":
            problems.append(f"{which} stands still at {each.position}: {each.error}")
        elif each.stalled > stall_seconds and each.lag:
            problems.append(
                f"{which} has not moved from {each.position} for {each.stalled:.0f} s, {each.lag} events behind: "
                f"{each.error or 'no error was reported'}"
            )
    if follower.freshness is not None and follower.lag_seconds > follower.freshness:
        problems.append(
            f"{what} is {follower.lag} events ({follower.lag_seconds:.1f} s) behind; its objective is "
            f"{follower.freshness:g} s"
        )
    elif not problems and follower.lag_seconds > PROBLEM_LAG_SECONDS and follower.state != "catching-up":
        late = min(follower.shares, key=lambda each: each.position, default=follower)
        problems.append(
            f"{what} is {follower.lag} events ({follower.lag_seconds:.0f} s) behind: "
            f"{late.error or 'no error was reported'}"
        )
    return problems
