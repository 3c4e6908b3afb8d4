"""A new kind of follower is one class and one entry in the list of kinds: nothing else knows the kinds."""

from collections.abc import Mapping, Sequence

from tests.sample_domains.counter_app_helpers import until
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import NewEvent, Position
from twofold.errors import InvalidMessage
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import Checkpoint, Parked
from twofold.signal import Signal
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, OperatorAction
from twofold.synchronization.follower import Skips
from twofold.synchronization.follower_kind import Team, UnitProgress
from twofold.synchronization.service import NodeOptions, Synchronization
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import WorkerLimits
from twofold.world import RealWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, RowWrite, Slice


class Relay:
    """Sends each event to a broker, which is a list here. The broker refuses some of them."""

    name = "broker"
    query = ALL_EVENTS

    def __init__(self, kind: "RelayKind") -> None:
        self._kind = kind

    async def open(self) -> Position:
        return self._kind.position

    async def apply(self, page: Slice, before: Position) -> None:
        for event in page.events:
            if event.id in self._kind.refused:
                raise ConnectionRefusedError(event.id)
            if event.id not in self._kind.sent:
                self._kind.sent.append(event.id)
        self._kind.position = page.upto

    async def park(self, page: Slice, before: Position, error: Exception) -> None:
        (event,) = page.events
        self._kind.waiting[event.id] = Parked(event.id, event.position, str(error), 0)
        self._kind.position = page.upto

    async def retry_pending(self, at: Position) -> float | None:
        return None

    async def close(self) -> None:
        return None

    async def retry(self, key: str, at: Position) -> str:
        if self._kind.waiting.pop(key, None) is None:
            raise InvalidMessage(f"'{key}' is not parked.", field="key")
        self._kind.sent.append(key)
        return "It is sent."

    async def repair(self, key: str, at: Position) -> str:
        raise InvalidMessage("A relay has no rows.", field="name")

    def add_skips(self, skips: Skips) -> None:
        return None

    def parked_at(self, key: str) -> Position | None:
        return self._kind.waiting[key].position if key in self._kind.waiting else None

    async def parked(self) -> tuple[Parked, ...]:
        return tuple(self._kind.waiting.values())


class RelayKind:
    """One relay, whose checkpoint is in memory."""

    name = "relay"
    versions: Mapping[str, int] = {"broker": 0}
    one_worker = False

    def __init__(self, refused: set[str], cluster: ClusterStateStore) -> None:
        self.refused = refused
        self.position: Position = 0
        self.sent: list[str] = []
        self.waiting: dict[str, Parked] = {}
        self._cluster = cluster

    async def prepare(self, state: ClusterState) -> ClusterState:
        return state

    def units(self, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        return [WorkUnit(self.name, "broker")]

    async def progress(
        self, units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]
    ) -> dict[WorkUnit, UnitProgress]:
        return {unit: UnitProgress(self.position, tuple(self.waiting.values())) for unit in units}

    def team(
        self, leases: Mapping[WorkUnit, int], checkpoints: Sequence[Checkpoint], skips: Mapping[str, Skips]
    ) -> Team:
        return Team({unit: Relay(self) for unit in leases}, 10, 10)

    async def skip(self, follower: Relay, key: str, at: Position, record: Sequence[RowWrite]) -> str | None:
        await self._cluster.write(*record)
        del self.waiting[key]
        return None


async def test_a_relay_is_followed_parked_retried_skipped_and_waited_for_like_any_other_follower() -> None:
    log, read_store, world, moved = MemoryWriteStore(), MemoryReadStore(), RealWorld(), Signal()

    async def append(one: Append) -> Outcome:
        (outcome,) = await log.append([one])
        return outcome

    cluster = ClusterStateStore(log, append, world, read_store)
    kind = RelayKind({"e2", "e3"}, cluster)
    options = NodeOptions(lease_seconds=5.0, worker=WorkerLimits(poll_seconds=0.01, retries=0))
    synchronization = Synchronization(cluster, log, read_store, world, [kind], {}, moved=moved, options=options)
    await synchronization.start()
    try:
        events = tuple(NewEvent(id=f"e{n}", type="happened", version=1, payload=b"{}", tags=()) for n in range(1, 5))
        await append(Append(Metadata(0, "c", "c"), events=events))
        assert await synchronization.late(["broker"], 4, timeout=20.0) == {}
        assert kind.sent == ["e1", "e4"]
        assert [parked.key for parked in await synchronization.parked("broker")] == ["e2", "e3"]
        assert synchronization.owner(WorkUnit("relay", "broker")) == world.place

        async def ask(what: str, key: str) -> OperatorAction:
            return await synchronization.request(what, "broker", key, "ann", timeout=20.0)  # type: ignore[arg-type]

        assert (await ask("retry", "e2")).outcome == "It is sent."
        assert (await ask("skip", "e3")).outcome == "The event at 3 is skipped."
        assert not (await ask("repair", "e3")).done
        await until(lambda: kind.sent == ["e1", "e4", "e2"], "sent")
        assert await synchronization.parked("broker") == []
        assert [action.what for action in (await synchronization.actions()).values()] == ["retry", "skip", "repair"]
    finally:
        await synchronization.stop()
