"""Split a partition in two, or merge it with the next one. The key of such a request is the name of the partition."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from twofold.read_store.partition import SLOTS, Partition, partition_named
from twofold.read_store.port import ReadModel, ReadStore
from twofold.synchronization.cluster_state import Request
from twofold.synchronization.folding import FoldFailed
from twofold.synchronization.follower import WholeFollower
from twofold.synchronization.projector import Projector
from twofold.synchronization.supervisor import Supervisor
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.history import read_up_to
from twofold.write_store.port import WriteStore

_PAGE = 1_000
REPARTITIONS = ("split", "merge")


class Repartition:
    """Changes the partitions that this node follows."""

    def __init__(
        self,
        supervisor: Supervisor,
        models: Mapping[str, ReadModel],
        write_store: WriteStore,
        read_store: ReadStore,
        world: World,
    ) -> None:
        self._supervisor = supervisor
        self._models = models
        self._write_store = write_store
        self._read_store = read_store
        self._world = world

    async def split(self, unit: WorkUnit) -> str:
        """Split the partition of a unit in two. ValueError if it is too small."""
        model, partition = self._target(unit)
        halves = partition.halves()
        worker = self._supervisor.workers[unit]
        follower = worker.follower

        async def split() -> None:
            if isinstance(follower, Projector):
                await follower.divide(halves, worker.position)
            await self._read_store.repartition(model, [partition], halves)

        await worker.between_pages(split)
        return f"Split into {halves[0].name} and {halves[1].name}."

    async def merge(self, unit: WorkUnit) -> tuple[bool, str] | None:
        """Merge the partition of a unit with the next one: whether that is done, and a sentence.

        None if this node does not follow both of them now.
        """
        model, partition = self._target(unit)
        second = next((other for other in self._supervisor.workers if unit.precedes(other)), None)
        if second is None:
            return (False, "There is no partition after this one.") if partition.end == SLOTS else None
        async with self._supervisor.held_back(unit, second) as (one, other):
            followers = [one.follower, other.follower]
            positions = [await follower.open() for follower in followers]
            try:
                for follower, position in zip(followers, positions, strict=True):
                    await self._advance(follower, position, max(positions))
            except FoldFailed as error:
                return False, f"The two partitions cannot be brought to the same position: {error}."
            _, next_partition = self._target(second)
            merged = Partition(partition.first, next_partition.end)
            await self._read_store.repartition(model, [partition, next_partition], [merged])
        return True, f"Merged into {merged.name}."

    def _target(self, unit: WorkUnit) -> tuple[ReadModel, Partition]:
        """The read model and the partition of a unit. ValueError if it has none."""
        if unit.generation is None or unit.partition is None:
            raise ValueError(f"'{unit.name}' has no partitions.")
        return replace(self._models[unit.name], generation=unit.generation), unit.partition

    async def _advance(self, follower: WholeFollower, position: int, target: int) -> None:
        """Let a follower take the log up to a position."""
        while position < target:
            page = await read_up_to(self._write_store, follower.query, position, _PAGE, target)
            await follower.apply(page, position)
            position = page.upto
            # Stores on this machine answer at once: other tasks of this loop have a turn here.
            await self._world.sleep(0)


def is_meant(partition: Partition, request: Request) -> bool:
    """Whether a request is about this partition, or this partition is what it made: a first half, or a merged one."""
    try:
        meant = partition_named(request.key)
    except ValueError:
        return False
    if request.what == "split":
        return partition == meant or partition in _halves(meant)[:1]
    return partition == meant or (partition.first == meant.first and partition.end > meant.end)


def _halves(partition: Partition) -> Sequence[Partition]:
    try:
        return partition.halves()
    except ValueError:
        return ()
