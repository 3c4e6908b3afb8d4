"""What operators do to the projections and policies of a running app: `App.projections`."""

from collections.abc import Callable, Collection, Iterable, Sequence

from twofold.codec.edge import check_text
from twofold.domain.events import Position
from twofold.domain.module import Wiring
from twofold.errors import InvalidMessage, Unavailable, UnknownMessage
from twofold.read_store.partition import WHOLE, partition_named
from twofold.read_store.port import Parked
from twofold.synchronization.cluster_state import OperatorAction
from twofold.synchronization.service import Synchronization

_SHOWN = 8
MAX_REASON = 500
"""Characters."""


class Projections:
    """What operators can do. Each action is put on record, with the `actor` who asked for it, once it is done.

    UnknownMessage if no projection (or, for `retry` and `skip`, policy) has the name. Unavailable if no node answers in
    time: try again, it is not done twice. Inline and live projections are never behind, and need none of this.
    """

    def __init__(self, synchronization: Callable[[], Synchronization], wiring: Wiring) -> None:
        self._synchronization = synchronization
        self._followers = wiring.followers
        self._never_late = wiring.projections.keys() - wiring.followers.keys()

    async def rebuild(self, names: Sequence[str], *, actor: str | None = None) -> dict[str, int]:
        """Begin to build a new generation of each projection beside the one that serves, or go on with one begun.

        All are built in one pass over the log. Their numbers by name; `App.status().builds` reports their progress.
        """
        for name in names:
            self._check_projection(name)
        return await self._synchronization().builds.begin(names, actor=actor)

    async def switch(
        self, name: str, *, generation: int | None = None, force: bool = False, actor: str | None = None
    ) -> int:
        """Let the generation that was built serve, and keep the other on standby. The number of the new one.

        InvalidMessage if none is under way, or if it has parked keys that the one that serves does not have, or has
        only at a later event (unless `force`). Conflict if it is not `generation`, the one that was compared.
        Unavailable if it is behind the one that serves.
        """
        self._check_projection(name)
        return await self._synchronization().builds.switch(name, generation=generation, force=force, actor=actor)

    async def switch_back(self, name: str, *, actor: str | None = None) -> int:
        """Let the generation on standby serve again. Its number. InvalidMessage if there is none."""
        self._check_projection(name)
        return await self._synchronization().builds.switch_back(name, actor=actor)

    async def drop(self, name: str, *, actor: str | None = None) -> list[int]:
        """Delete every generation that does not serve: on standby or being built. Their numbers."""
        self._check_projection(name)
        return await self._synchronization().builds.drop(name, actor=actor)

    async def retry(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> OperatorAction:
        """Fold a parked key from the event it is parked at (or let a policy react again), and unpark it."""
        self._check_follower(name)
        return await self._synchronization().request("retry", name, key, actor, timeout)

    async def skip(
        self,
        name: str,
        key: str,
        position: Position | None = None,
        *,
        actor: str | None = None,
        timeout: float = 30.0,
    ) -> OperatorAction:
        """Skip the event a key is parked at, and go on with the events that wait behind it.

        With `position` only that event is skipped: if the key is parked at another one by then, nothing is (`done` is
        false). The event stays skipped when the same version of the projection is rebuilt or audited.
        """
        self._check_follower(name)
        return await self._synchronization().request("skip", name, key, actor, timeout, position=position)

    async def repair(self, name: str, key: str, *, actor: str | None = None, timeout: float = 30.0) -> OperatorAction:
        """Fold a key from its first event, and replace the stored row if it differs."""
        self._check_projection(name)
        return await self._synchronization().request("repair", name, key, actor, timeout)

    async def pause(
        self, name: str, reason: str = "", *, actor: str | None = None, timeout: float = 30.0
    ) -> OperatorAction:
        """Stop following for a projection (all its generations) or policy, on all nodes, until it is resumed.

        It keeps its place. Also what a policy is to send later waits. When the record comes, this node has stopped;
        others have within about a second. One that is paused already stays as it is.
        """
        self._check_follower(name)
        return await self._synchronization().pause_follower(name, _checked(reason), actor, timeout)

    async def resume(
        self, name: str, skip: Position | None = None, *, actor: str | None = None, timeout: float = 30.0
    ) -> OperatorAction:
        """Let a paused projection or policy go on from its place.

        With `skip` a policy leaves out the event at this position, before which it has paused itself. InvalidMessage
        if it is not paused before that one.
        """
        self._check_follower(name)
        return await self._synchronization().resume_follower(name, skip, actor, timeout)

    async def split(
        self, name: str, partition: str = WHOLE.name, *, actor: str | None = None, timeout: float = 30.0
    ) -> OperatorAction:
        """Split a partition (`first-end`, as `App.status()` names it) in two, so that two nodes can follow it.

        InvalidMessage, also from `merge`, if the projection has no such partition.
        """
        self._check_projection(name)
        partition = await self._partition(name, partition)
        return await self._synchronization().request("split", name, partition, actor, timeout)

    async def merge(
        self, name: str, partition: str, *, actor: str | None = None, timeout: float = 30.0
    ) -> OperatorAction:
        """Merge a partition with the next one."""
        self._check_projection(name)
        partition = await self._partition(name, partition)
        return await self._synchronization().request("merge", name, partition, actor, timeout)

    async def actions(self, name: str | None = None) -> dict[str, OperatorAction]:
        """The records of what operators did, by the id of the request, the oldest first."""
        actions = await self._synchronization().actions()
        return {request_id: action for request_id, action in actions.items() if name in (None, action.name)}

    async def parked(self, name: str) -> list[Parked]:
        """All keys that a projection has parked, or events that a policy has parked."""
        self._check_follower(name)
        return await self._synchronization().parked(name)

    async def wait(self, names: Iterable[str], position: Position, timeout: float) -> None:
        """Return once all these projections and policies have come to `position`.

        Unavailable, with the name and the lag of one that has not, after `timeout` seconds.
        """
        late = await self.late(names, position, timeout)
        if late:
            name, at = min(late.items(), key=lambda item: item[1])
            cure = self._synchronization().paused_because(name) or "Try again."
            raise Unavailable(
                f"'{name}' is {position - at} events behind: it is at {at}, and {position} was asked for. {cure}",
                lag=position - at,
            )

    async def late(self, names: Iterable[str], position: Position, timeout: float) -> dict[str, Position]:
        """Wait until these projections and policies have come to `position`, at most `timeout` seconds.

        Those that have not, with their positions.
        """
        followers = list(dict.fromkeys(names))
        for name in followers:
            self.check_waited_for(name)
        followed = [name for name in followers if name not in self._never_late]
        return await self._synchronization().late(followed, position, timeout)

    def check_waited_for(self, name: str) -> None:
        """UnknownMessage if nothing of this name can be waited for."""
        if name not in self._never_late:
            self._check_follower(name)

    def _check_projection(self, name: str) -> None:
        _check_known(name, "projection", [known for known, kind in self._followers.items() if kind == "projection"])

    def _check_follower(self, name: str) -> None:
        _check_known(name, "follower", self._followers)

    async def _partition(self, name: str, partition: str) -> str:
        try:
            chosen = partition_named(partition).name
        except ValueError as error:
            raise InvalidMessage(str(error), field="partition") from error
        partitions = await self._synchronization().partitions(name)
        if chosen not in partitions:
            shown = ", ".join([*partitions[:_SHOWN], *(["…"] if len(partitions) > _SHOWN else [])])
            raise InvalidMessage(f"'{name}' has no partition {chosen}. It has: {shown}.", field="partition")
        return chosen


def _check_known(name: str, what: str, known: Collection[str]) -> None:
    if name not in known:
        raise UnknownMessage(f"There is no {what} '{name}'. There are: {', '.join(sorted(known)) or 'none'}.")


def _checked(reason: str) -> str:
    """A reason that every store can hold. InvalidMessage where it is too long or not text."""
    if len(reason) > MAX_REASON:
        raise InvalidMessage(f"A reason may have at most {MAX_REASON} characters.", field="reason")
    check_text(reason, "reason")
    return reason


async def names_late(projections: Projections, names: Sequence[str], position: Position, timeout: float) -> list[str]:
    """Those of these names that are late after `timeout` seconds; all of them where a store cannot be reached."""
    try:
        late = await projections.late(names, position, timeout)
    except Unavailable:
        # The command is written, even if a read store is away: its sender must not get an error.
        return list(names)
    return [name for name in names if name in late]
