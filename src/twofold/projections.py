"""In charge of what operators do to projections and policies of a running app: rebuild, switch, mend, share out."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from twofold.domain.events import Position
from twofold.errors import InvalidMessage, Unavailable, UnknownMessage
from twofold.read_store.partition import WHOLE, partition_named
from twofold.read_store.port import Parked
from twofold.runtime import Runtime
from twofold.signal import Signal, wait_for
from twofold.status import parked_keys
from twofold.synchronization.cluster_state import OperatorAction, Request
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World

_POLL = 0.05
_SHOWN = 8


class Projections:
    """The verbs of an operator, as `App.projections`. Each is on record, with who asked for it, once it is done.

    UnknownMessage where no projection (or, for `retry` and `skip`, policy) has the name; Unavailable where no node came
    to it within the time: ask again, it is not done twice. Projections that are `unfollowed` (inline, live) are never
    behind, and there is nothing to be done to them.
    """

    def __init__(
        self,
        running: Callable[[], Runtime],
        names: Iterable[str],
        policies: Iterable[str],
        unfollowed: Iterable[str],
        world: World,
        moved: Signal,
    ) -> None:
        self._open = running
        self._names = frozenset(names)
        self._policies = frozenset(policies)
        self._unfollowed = frozenset(unfollowed) - self._names
        self._world = world
        self._moved = moved
        self._looking: asyncio.Task[dict[str, Position]] | None = None

    async def rebuild(self, names: Sequence[str], *, actor: str | None = None) -> dict[str, int]:
        """Begin to build a new generation of each projection beside the one that serves; or go on with one begun.

        All of them read the log in one pass. Their numbers by name; `App.status().builds` tells how far they are.
        """
        for name in names:
            self._check(name)
        running = self._open()
        numbers = await running.builds.begin(names, actor=actor)
        running.supervisor.wake()
        return numbers

    async def switch(
        self, name: str, *, generation: int | None = None, force: bool = False, actor: str | None = None
    ) -> int:
        """Let the generation that was built serve, and keep the other as the way back. The number of the new one.

        InvalidMessage where none is under way, or where it has parked keys that the one that serves has not, or only
        at a later event (unless `force`); Conflict where it is another one than `generation`, where that is given: what
        was looked at; Unavailable where it has not come as far as the one that serves.
        """
        self._check(name)
        running = self._open()
        number = await running.builds.switch(name, generation=generation, force=force, actor=actor)
        running.supervisor.wake()
        return number

    async def switch_back(self, name: str, *, actor: str | None = None) -> int:
        """Let the generation that served before serve again. Its number. InvalidMessage where none is kept."""
        self._check(name)
        running = self._open()
        number = await running.builds.switch_back(name, actor=actor)
        running.supervisor.wake()
        return number

    async def drop(self, name: str, *, actor: str | None = None) -> list[int]:
        """Give up every generation that serves nobody: what was kept, and what is being built. Their numbers."""
        self._check(name)
        running = self._open()
        running.supervisor.wake()
        return await running.builds.drop(name, actor=actor)

    async def retry(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> OperatorAction:
        """Fold a parked key again from where it stopped (or react again to a parked event), and free it."""
        self._check(name, or_policy=True)
        return await self._ask("retry", name, key, actor, timeout)

    async def skip(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> OperatorAction:
        """Pass over the event a key is parked at, and go on with those that wait behind it.

        It stays passed over, also when the same version of the projection is rebuilt or audited.
        """
        self._check(name, or_policy=True)
        return await self._ask("skip", name, key, actor, timeout)

    async def repair(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> OperatorAction:
        """Fold a key from its first event, and put the row that this makes in the place of the one that is there."""
        self._check(name)
        return await self._ask("repair", name, key, actor, timeout)

    async def split(
        self, name: str, partition: str = WHOLE.name, *, actor: str | None = None, timeout: float = 30.0
    ) -> OperatorAction:
        """Part a partition (`first-end`, as `App.status()` names it) in two, so that two nodes can follow for it.

        InvalidMessage, here and of `merge`, where the projection has no such partition.
        """
        self._check(name)
        return await self._ask("split", name, await self._partition(name, partition), actor, timeout)

    async def merge(
        self, name: str, partition: str, *, actor: str | None = None, timeout: float = 30.0
    ) -> OperatorAction:
        """Put a partition and the one behind it together."""
        self._check(name)
        return await self._ask("merge", name, await self._partition(name, partition), actor, timeout)

    async def actions(self, name: str | None = None) -> dict[str, OperatorAction]:
        """What was done on operators' requests, by the id of the request, the oldest first."""
        acts = await self._open().cluster.actions()
        return {key: act for key, act in acts.items() if name in (None, act.name)}

    async def parked(self, name: str) -> list[Parked]:
        """All keys that a projection has parked, or events that a policy has."""
        self._check(name, or_policy=True)
        return await parked_keys(self._open(), name)

    async def wait(self, names: Iterable[str], position: Position, timeout: float) -> None:
        """Return once all these projections and policies have come to `position`.

        Unavailable, naming one that has not and its lag, after `timeout` seconds.
        """
        late = await self.late(names, position, timeout)
        if late:
            name, at = min(late.items(), key=lambda each: each[1])
            raise Unavailable(
                f"'{name}' is {position - at} events behind what was asked for (at {at}, wanted {position}). "
                "Ask again.",
                lag=position - at,
            )

    async def late(self, names: Iterable[str], position: Position, timeout: float) -> dict[str, Position]:
        """Wait until these projections and policies have come to `position`, `timeout` seconds at most.

        Those that have not, and where they are; none if all have.
        """
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            self.check_waited_for(name)
        deadline = self._world.monotonic() + timeout
        while True:
            moved = self._moved.next
            at = await self._positions()
            followed = [name for name in wanted if name not in self._unfollowed]
            late = {name: at.get(name, 0) for name in followed if at.get(name, 0) < position}
            left = deadline - self._world.monotonic()
            if not late or left <= 0:
                return late
            await wait_for(moved, min(left, _POLL), self._world)

    def check_waited_for(self, name: str) -> None:
        """UnknownMessage where nothing of this name can be waited for."""
        if name not in self._unfollowed:
            self._check(name, or_policy=True)

    async def _positions(self) -> dict[str, Position]:
        """Where everything stands, by one look for all who ask while it lasts."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="twofold-positions")
            self._looking.add_done_callback(_heard)
        return await asyncio.shield(self._looking)

    async def _look(self) -> dict[str, Position]:
        running = self._open()
        at: dict[str, Position] = {}
        for share, reached in (await running.positions(await running.read_store.checkpoints())).items():
            if share.kind == "policy" or running.serves(share):
                at[share.name] = min(reached, at.get(share.name, reached))
        return at

    async def _ask(
        self,
        what: Literal["retry", "skip", "repair", "split", "merge"],
        name: str,
        key: str,
        actor: str | None,
        timeout: float,
    ) -> OperatorAction:
        running = self._open()
        number = f"{running.cluster.now()}-{self._world.new_id()}"
        read_store = running.cluster.read_store if name in self._names else ""
        version = running.supervisor.version(name)
        wanted = Request(what, name, key, actor, running.cluster.now(), read_store, version)
        if not await running.cluster.write(running.cluster.request(number, wanted, 0)):
            raise Unavailable("Another request has this one's id. Ask again.")
        running.supervisor.wake()
        deadline = self._world.monotonic() + timeout
        while True:
            act = (await running.cluster.actions([number])).get(number)
            if act is not None:
                return act
            if self._world.monotonic() >= deadline:
                await self._take_back(running, number)
                raise Unavailable(f"Nobody who follows for '{name}' came to it within {timeout:g} s. Ask again.")
            await self._world.sleep(_POLL)

    async def _take_back(self, running: Runtime, number: str) -> None:
        """Ask no longer, so that nothing is done when nobody waits for it any more."""
        noted = (await running.cluster.read()).requests.get(number)
        if noted is not None:
            await running.cluster.write(running.cluster.request(number, None, noted.version))

    def _check(self, name: str, *, or_policy: bool = False) -> None:
        if name in self._names or (or_policy and name in self._policies):
            return
        known = ", ".join(sorted(self._names | self._policies if or_policy else self._names)) or "none"
        raise UnknownMessage(f"There is no {'follower' if or_policy else 'projection'} '{name}'. There are: {known}.")

    async def _partition(self, name: str, partition: str) -> str:
        try:
            wanted = partition_named(partition).name
        except ValueError as error:
            raise InvalidMessage(str(error), field="partition") from error
        running = self._open()
        there = [
            at.partition.name
            for at in await running.read_store.checkpoints()
            if at.name == name and running.serves(WorkUnit("projection", name, at.generation, at.partition))
        ]
        if wanted not in there:
            shown = ", ".join([*there[:_SHOWN], *(["…"] if len(there) > _SHOWN else [])])
            raise InvalidMessage(f"'{name}' has no partition {wanted}. It has: {shown}.", field="partition")
        return wanted


def _heard(look: "asyncio.Task[dict[str, Position]]") -> None:
    """Take note of how a look ended, in case all who asked for it have left."""
    if not look.cancelled():
        look.exception()
