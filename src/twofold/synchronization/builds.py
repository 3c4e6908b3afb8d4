"""In charge of the generations of a projection: begun beside the one that serves, switched to, kept, dropped."""

import asyncio
import math
from collections.abc import Mapping, Sequence

from twofold.errors import Conflict, InvalidMessage, Unavailable
from twofold.read_store.port import Checkpoint, Progress, ReadStore
from twofold.synchronization.cluster_state import ClusterStateStore, Generation, Generations, OperatorAction
from twofold.synchronization.work_unit import work_unit_named
from twofold.world import World
from twofold.write_store.port import RowWrite

_TRIES = 20
_LOOKS = 50
_PAUSE = 0.1
_SEEN_BY_ALL = 2.0
"""Seconds after which every node has looked at what is noted."""


class Builds:
    """What operators do to generations. Each is one guarded write of what all nodes read: all of it or nothing.

    The same write puts on record what was done, and which `actor` asked for it.
    """

    def __init__(
        self, cluster: ClusterStateStore, read_store: ReadStore, world: World, versions: Mapping[str, int]
    ) -> None:
        self._cluster = cluster
        self._read_store = read_store
        self._world = world
        self._versions = versions

    async def begin(self, names: Sequence[str], *, actor: str | None = None) -> dict[str, int]:
        """A generation under way for each projection: begun, or begun before and not finished. Its number by name.

        InvalidMessage where one of them cannot be begun, and then none is.
        """
        board = await self._cluster.read()
        for name in names:
            _refuse_kept(name, board.generations(name).record, self._versions[name])
        return {name: await self._begin(name, actor) for name in names}

    async def switch(
        self, name: str, *, generation: int | None = None, force: bool = False, actor: str | None = None
    ) -> int:
        """Let the generation that is under way serve, and keep the one that served. The number of the new one.

        InvalidMessage where none is under way, or where it has parked keys that the one that serves has not, or only
        at a later event (unless `force`); Conflict where it is another one than `generation`; Unavailable where it has
        not come as far as the one that serves.
        """
        version = self._versions[name]
        for _ in range(_TRIES):
            board = await self._cluster.read()
            noted = board.generations(name)
            new, old = noted.record.find(version, "building"), noted.record.find(version, "serving")
            if new is None or old is None:
                raise InvalidMessage(f"No rebuild of '{name}' is under way. Begin one first.", field="name")
            if generation not in (None, new):
                raise Conflict(
                    f"Not generation {generation} of '{name}' is under way, but {new}. Look at that one first."
                )
            await self._refuse_worse(name, old, new, force=force)
            record = noted.record.but({new: self._as(noted.record, new, "serving"), **self._retire(noted.record, old)})
            act = self._act("switch", name, actor, f"Generation {new} serves, {old} is kept.", new)
            if await self._cluster.write(self._cluster.generations(name, record, noted.version), act):
                return new
        raise Conflict(f"Others change the generations of '{name}' all the time. Try again.")

    async def switch_back(self, name: str, *, actor: str | None = None) -> int:
        """Let the generation that served before serve again, and keep the other. Its number.

        InvalidMessage where none is kept; Unavailable where it has not come as far as the one that serves.
        """
        version = self._versions[name]
        for _ in range(_TRIES):
            noted = (await self._cluster.read()).generations(name)
            kept, serving = noted.record.find(version, "standby"), noted.record.find(version, "serving")
            if kept is None or serving is None:
                raise InvalidMessage(f"No earlier generation of '{name}' is kept.", field="name")
            await self._refuse_worse(name, serving, kept, force=True)
            record = noted.record.but(
                {kept: self._as(noted.record, kept, "serving"), serving: self._as(noted.record, serving, "standby")}
            )
            act = self._act("back", name, actor, f"Generation {kept} serves again, {serving} is kept.", kept)
            if await self._cluster.write(self._cluster.generations(name, record, noted.version), act):
                return kept
        raise Conflict(f"Others change the generations of '{name}' all the time. Try again.")

    async def drop(self, name: str, *, actor: str | None = None) -> list[int]:
        """Take away every generation of a projection that does not serve, also what was left half dropped.

        Their numbers. What serves a version that no node follows any more is one of them: nobody asks it. Who follows
        for one is given time to notice before its rows go.
        """
        for _ in range(_TRIES):
            board = await self._cluster.read()
            noted, used = board.generations(name), board.versions(name) | {self._versions[name]}
            idle = {
                n: None
                for n, each in noted.record.builds.items()
                if each.state != "serving" or each.version not in used
            }
            numbers = ", ".join(map(str, sorted(idle)))
            if not idle or await self._cluster.write(
                self._cluster.generations(name, noted.record.but(idle), noted.version),
                self._act("drop", name, actor, f"Given up: generation {numbers}.", max(idle)),
            ):
                break
        else:
            raise Conflict(f"Others change the generations of '{name}' all the time. Try again.")
        # In this order: a build that is begun meanwhile is noted before it is stored.
        stored = {at.generation for at in await self._read_store.checkpoints() if at.name == name}
        noted = (await self._cluster.read()).generations(name)
        gone = sorted((stored | idle.keys()) - noted.record.builds.keys())
        for number in gone:
            await self._nobody_follows(name, number)
            await self._read_store.drop(name, number)
        await self._forget_leases(name)
        return gone

    async def progress(self, name: str, generation: int) -> Progress:
        """How far a generation has come: its lowest checkpoint, and all that is parked."""
        found = [
            at.progress for at in await self._read_store.checkpoints() if (at.name, at.generation) == (name, generation)
        ]
        if not found:
            return Progress(0, "", 0)
        lowest = min(found, key=lambda each: each.position)
        parked = tuple(key for each in found for key in each.parked)
        return Progress(lowest.position, lowest.log, max(each.updated for each in found), parked)

    async def _begin(self, name: str, actor: str | None) -> int:
        version = self._versions[name]
        for _ in range(_TRIES):
            noted = (await self._cluster.read()).generations(name)
            known = noted.record.find(version, "building")
            if known is not None:
                return known
            _refuse_kept(name, noted.record, version)
            number = noted.record.last + 1
            record = noted.record.but({number: Generation(version, "building", self._cluster.now())})
            act = self._act("rebuild", name, actor, f"Generation {number} is begun.", number)
            if await self._cluster.write(self._cluster.generations(name, record, noted.version), act):
                return number
        raise Conflict(f"Others change the generations of '{name}' all the time. Try again.")

    async def _refuse_worse(self, name: str, old: int, new: int, *, force: bool) -> None:
        checkpoints = [at for at in await self._read_store.checkpoints() if at.name == name]
        lag = _behind(
            [at for at in checkpoints if at.generation == old], [at for at in checkpoints if at.generation == new]
        )
        if lag:
            raise Unavailable(f"Generation {new} of '{name}' is {lag} events behind the one that serves.", lag=lag)
        now, then = await self.progress(name, old), await self.progress(name, new)
        parked = {each.key: each.position for each in now.parked}
        # A row stays as it was before the event that is parked: an earlier one is an older row.
        worse = {each.key for each in then.parked if each.position < parked.get(each.key, math.inf)}
        if worse and not force:
            raise InvalidMessage(
                f"Generation {new} of '{name}' has {len(worse)} keys parked that the one that serves has not, or only "
                f"at a later event, e.g. '{min(worse)}'. Mend the fold and begin anew, or force it.",
                field="force",
            )

    async def _nobody_follows(self, name: str, number: int) -> None:
        """Wait until no node holds a lease of a generation, as long as one that lives may take to notice.

        Where there are other nodes, at least as long as they take to look: they may still answer from it.
        """
        for n in range(_LOOKS):
            board = await self._cluster.read()
            shares = [work_unit_named(resource) for resource, noted in board.leases.items() if noted.record.owner]
            held = (name, number) in [(each.name, each.generation) for each in shares if each.kind != "policy"]
            if not held and (len(board.nodes) < 2 or n * _PAUSE > _SEEN_BY_ALL):
                return
            await self._world.sleep(_PAUSE)

    async def _forget_leases(self, name: str) -> None:
        """Take out what is noted of leases of generations that are gone: their numbers are never used again.

        Whoever still has one gives it back at his next look, and so notes it again; the next drop takes that out.
        """
        board = await self._cluster.read()
        known = board.generations(name).record.builds
        gone = [
            self._cluster.lease(share, None, noted.version)
            for share, noted in ((work_unit_named(resource), noted) for resource, noted in board.leases.items())
            if share.kind != "policy" and share.name == name and share.generation not in known
        ]
        # Each by itself: one that has changed meanwhile keeps no other.
        await asyncio.gather(*(self._cluster.write(each) for each in gone))

    def _act(self, what: str, name: str, actor: str | None, outcome: str, generation: int) -> RowWrite:
        now = self._cluster.now()
        act = OperatorAction(what, name, "", actor, now, True, outcome, generation, self._versions[name])
        return self._cluster.act(f"{now}-{self._world.new_id()}", act)

    def _retire(self, record: Generations, number: int) -> dict[int, Generation]:
        return {number: self._as(record, number, "standby")}

    def _as(self, record: Generations, number: int, state: str) -> Generation:
        build = record.builds[number]
        return Generation(build.version, "serving" if state == "serving" else "standby", build.began)


def _behind(old: Sequence[Checkpoint], new: Sequence[Checkpoint]) -> int:
    """How many events a generation is behind another one, for the key for which it is most.

    Partition by partition: one that is halted holds back its own keys only, and may not hide that others are behind.
    """
    pairs = [
        (before.progress.position, after.progress.position)
        for before in old
        for after in new
        if before.partition.first < after.partition.end and after.partition.first < before.partition.end
    ]
    if not new:
        pairs = [(before.progress.position, 0) for before in old]
    return max((before - after for before, after in pairs if after < before), default=0)


def _refuse_kept(name: str, record: Generations, version: int) -> None:
    if record.find(version, "building") is None and record.find(version, "standby") is not None:
        raise InvalidMessage(
            f"The generation of '{name}' that served before is still kept, as the way back. Drop it first.",
            field="name",
        )
