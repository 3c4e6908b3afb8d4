"""Pause and resume of whole projections and policies. Each is one guarded write of what all nodes read."""

from collections.abc import Mapping

from twofold.domain.events import Position
from twofold.errors import Conflict, InvalidMessage
from twofold.signal import Signal
from twofold.synchronization.cluster_state import ClusterStateStore, OperatorAction, Pause
from twofold.synchronization.policy_rows import leave_out
from twofold.world import World
from twofold.write_store.port import RowWrite, WriteStore

_TRIES = 20


class Pauses:
    """Writes which projections and policies are paused, and puts that on record in the same commit.

    `versions` are those of the followers by name, 0 for one without a read model. `wake` makes this node update at
    once.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        write_store: WriteStore,
        world: World,
        versions: Mapping[str, int],
        wake: Signal,
    ) -> None:
        self._cluster = cluster
        self._write_store = write_store
        self._world = world
        self._versions = versions
        self._wake = wake

    async def pause(self, name: str, reason: str, actor: str | None) -> OperatorAction:
        """Pause a follower, if it is not paused already. The record."""
        for _ in range(_TRIES):
            row = (await self._cluster.read()).pauses.get(name)
            if row is not None:
                action = self._record("pause", name, actor, f"It was paused already. {row.record.sentence}")
            else:
                action = self._record("pause", name, actor, f"It is paused{f': {reason}' if reason else '.'}")
            pause = Pause(reason, actor, action.at)
            if await self._write(action, *([self._row(name, pause, 0)] if row is None else [])):
                return action
        raise self._contended(name)

    async def resume(self, name: str, skip: Position | None, actor: str | None) -> OperatorAction:
        """Let a follower go on from its checkpoint; `skip`: after the event before which a policy has paused itself.

        InvalidMessage if it is not paused before that event. The record.
        """
        for _ in range(_TRIES):
            row = (await self._cluster.read()).pauses.get(name)
            if skip is not None and (row is None or row.record.position != skip):
                at = row.record.position if row is not None else 0
                instead = f"It is paused before the event at {at}." if at else "Resume it without `skip`."
                raise InvalidMessage(f"'{name}' is not paused before an event at {skip}. {instead}", field="skip")
            if row is None:
                action, writes = self._record("resume", name, actor, "It was not paused."), []
            elif skip is None:
                action = self._record("resume", name, actor, "It is resumed.")
                writes = [self._row(name, None, row.version)]
            else:
                outcome = f"It is resumed after the event at {skip}, which it leaves out."
                action = self._record("resume", name, actor, outcome, skip)
                passed = await leave_out(self._write_store, name, skip)
                writes = [self._row(name, None, row.version), passed]
            if await self._write(action, *writes):
                return action
        raise self._contended(name)

    def _row(self, name: str, record: Pause | None, seen: int) -> RowWrite:
        return self._cluster.pause(name, record, seen, policy=not self._versions[name])

    async def _write(self, action: OperatorAction, *rows: RowWrite) -> bool:
        record = self._cluster.action(f"{action.at}-{self._world.new_id()}", action)
        done = await self._cluster.write(record, *rows)
        self._wake.fire()
        return done

    def _record(self, what: str, name: str, actor: str | None, outcome: str, position: Position = 0) -> OperatorAction:
        version = self._versions[name]
        return OperatorAction(
            what=what,
            name=name,
            key="",
            actor=actor,
            at=self._cluster.now(),
            done=True,
            outcome=outcome,
            version=version,
            position=position,
            read_store=self._cluster.read_store if version else "",
        )

    def _contended(self, name: str) -> Conflict:
        return Conflict(f"Other requests keep pausing and resuming '{name}'. Try again.")
