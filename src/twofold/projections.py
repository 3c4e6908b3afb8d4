"""In charge of what operators do to projections and policies of a running app: rebuild, switch, mend, share out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from twofold.domain.events import Position
from twofold.errors import InvalidMessage, Unavailable, UnknownMessage
from twofold.read_store.partition import WHOLE, partition_named
from twofold.running import Running
from twofold.synchronization.control import Act, Request
from twofold.world import World

_POLL = 0.05


class Projections:
    """The verbs of an operator, as `App.projections`. Each is on record, with who asked for it, once it is done.

    UnknownMessage where no projection (or, for `retry` and `skip`, policy) has the name; Unavailable where no node came
    to it within the time: ask again, it is not done twice.
    """

    def __init__(
        self, running: Callable[[], Running], names: Iterable[str], policies: Iterable[str], world: World
    ) -> None:
        self._open = running
        self._names = frozenset(names)
        self._policies = frozenset(policies)
        self._world = world

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        """Begin to build a new generation of each projection beside the one that serves; or go on with one begun.

        All of them read the log in one pass. Their numbers by name; `App.status().builds` tells how far they are.
        """
        for name in names:
            self._check(name)
        running = self._open()
        numbers = await running.builds.begin(names)
        running.supervisor.wake()
        return numbers

    async def switch(self, name: str, *, force: bool = False) -> int:
        """Let the generation that was built serve, and keep the other as the way back. The number of the new one.

        InvalidMessage where none is under way, or where it has parked keys that the one that serves has not (unless
        `force`); Unavailable where it has not come as far as that one.
        """
        self._check(name)
        running = self._open()
        number = await running.builds.switch(name, force=force)
        running.supervisor.wake()
        return number

    async def back(self, name: str) -> int:
        """Let the generation that served before serve again. Its number. InvalidMessage where none is kept."""
        self._check(name)
        running = self._open()
        number = await running.builds.back(name)
        running.supervisor.wake()
        return number

    async def drop(self, name: str) -> list[int]:
        """Give up every generation that serves nobody: what was kept, and what is being built. Their numbers."""
        self._check(name)
        running = self._open()
        running.supervisor.wake()
        return await running.builds.drop(name)

    async def retry(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> Act:
        """Fold a parked key again from where it stopped (or react again to a parked event), and free it."""
        self._check(name, or_policy=True)
        return await self._ask("retry", name, key, actor, timeout)

    async def skip(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> Act:
        """Pass over the event a key is parked at, and go on with those that wait behind it.

        It stays passed over, also when the same version of the projection is rebuilt or audited.
        """
        self._check(name, or_policy=True)
        return await self._ask("skip", name, key, actor, timeout)

    async def repair(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> Act:
        """Fold a key from its first event, and put the row that this makes in the place of the one that is there."""
        self._check(name)
        return await self._ask("repair", name, key, actor, timeout)

    async def split(
        self, name: str, partition: str = WHOLE.name, *, actor: str | None = None, timeout: float = 30.0
    ) -> Act:
        """Part a partition (`first-end`, as `App.status()` names it) in two, so that two nodes can follow for it."""
        self._check(name)
        return await self._ask("split", name, self._partition(partition), actor, timeout)

    async def merge(self, name: str, partition: str, *, actor: str | None = None, timeout: float = 30.0) -> Act:
        """Put a partition and the one behind it together."""
        self._check(name)
        return await self._ask("merge", name, self._partition(partition), actor, timeout)

    async def acts(self, name: str | None = None) -> dict[str, Act]:
        """What was done on operators' requests, by the id of the request, the oldest first."""
        acts = await self._open().control.acts()
        found = {key: act for key, act in acts.items() if name in (None, act.name)}
        return dict(sorted(found.items(), key=lambda each: each[1].at))

    async def wait(self, names: Iterable[str], position: Position, timeout: float) -> None:
        """Return once all these projections and policies have come to `position`.

        Unavailable, naming one that has not and its lag, after `timeout` seconds.
        """
        wanted = list(names)
        for name in wanted:
            self._check(name, or_policy=True)
        deadline = self._world.monotonic() + timeout
        while True:
            late = await self._late(wanted, position)
            if late is None:
                return
            if self._world.monotonic() >= deadline:
                name, at = late
                raise Unavailable(
                    f"'{name}' is {position - at} events behind what was asked for (at {at}, wanted {position}). "
                    "Ask again.",
                    lag=position - at,
                )
            await self._world.sleep(_POLL)

    async def _late(self, names: Sequence[str], position: Position) -> tuple[str, Position] | None:
        running = self._open()
        at: dict[str, Position] = {}
        for share, reached in (await running.positions(await running.views.checkpoints())).items():
            if share.kind == "policy" or running.serves(share):
                at[share.name] = min(reached, at.get(share.name, reached))
        return next(((name, at.get(name, 0)) for name in names if at.get(name, 0) < position), None)

    async def _ask(
        self,
        what: Literal["retry", "skip", "repair", "split", "merge"],
        name: str,
        key: str,
        actor: str | None,
        timeout: float,
    ) -> Act:
        running = self._open()
        number = f"{running.control.now()}-{self._world.new_id()}"
        views = running.control.views if name in self._names else ""
        wanted = Request(what, name, key, actor, running.control.now(), views)
        if not await running.control.write(running.control.request(number, wanted, 0)):
            raise Unavailable("Another request has this one's id. Ask again.")
        running.supervisor.wake()
        deadline = self._world.monotonic() + timeout
        while True:
            act = (await running.control.acts([number])).get(number)
            if act is not None:
                return act
            if self._world.monotonic() >= deadline:
                await self._take_back(running, number)
                raise Unavailable(f"Nobody who follows for '{name}' came to it within {timeout:g} s. Ask again.")
            await self._world.sleep(_POLL)

    async def _take_back(self, running: Running, number: str) -> None:
        """Ask no longer, so that nothing is done when nobody waits for it any more."""
        noted = (await running.control.look()).requests.get(number)
        if noted is not None:
            await running.control.write(running.control.request(number, None, noted.version))

    def _check(self, name: str, *, or_policy: bool = False) -> None:
        if name in self._names or (or_policy and name in self._policies):
            return
        known = ", ".join(sorted(self._names | self._policies if or_policy else self._names)) or "none"
        raise UnknownMessage(f"There is no {'follower' if or_policy else 'projection'} '{name}'. There are: {known}.")

    def _partition(self, name: str) -> str:
        try:
            return partition_named(name).name
        except ValueError as error:
            raise InvalidMessage(str(error), field="partition") from error
