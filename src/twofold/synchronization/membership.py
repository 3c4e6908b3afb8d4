"""Membership: this node writes heartbeats, and sees from the heartbeats of the others which nodes have expired."""

import asyncio
import logging

from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.signal import Signal
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, Node
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World

log = logging.getLogger(__name__)

HEARTBEATS = 4
"""The number of heartbeats in the time of a lease."""
_TRUSTED = 2 / 3
"""The part of a lease for which a node believes that it holds its leases, although its heartbeats fail."""
_LEASES_UNTIL_REMOVED = 5


class Membership:
    """One node among others. If only this process can write the log, there are no others, and nothing is written.

    A heartbeat is a new version of the node's row. A node has expired once another node, by its own clock, has seen no
    new version for the time of a lease. If other nodes have removed this one, or it has no row in a log that has
    replaced another one, it is `evicted` (and fires `wake`): `rejoin` makes it a new node.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        world: World,
        record: Node,
        lease_seconds: float,
        exclusive: bool,
        wake: Signal,
    ) -> None:
        self.node = world.new_id()
        self.record = record
        self.evicted = False
        self._cluster = cluster
        self._world = world
        self._lease = lease_seconds
        self._exclusive = exclusive
        self._wake = wake
        self._observed: dict[str, tuple[int, float]] = {}
        self._version = 0
        self._renewed = world.monotonic()
        self._heartbeats: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        """Write this node's row, and begin the heartbeats."""
        if self._exclusive:
            return
        if not await self._cluster.write(self._cluster.node(self.node, self.record, 0)):
            raise Unavailable("Another node has the id of this node. Start it again.")
        self._version = 1
        self._renewed = self._world.monotonic()
        self._heartbeats = asyncio.create_task(self.heartbeat_loop(), name="twofold-heartbeats")

    async def log_replaced(self, exclusive: bool) -> None:
        """The log is another one now, to which only this process can write, or others as well.

        If the row of this node cannot be written now, it joins as a new node with the next update.
        """
        if exclusive == self._exclusive:
            return
        if exclusive:
            await self.stop_heartbeat()
            await self.leave()
        self._exclusive = exclusive
        try:
            await self.enter()
        except TwofoldError as error:
            log.warning("This node could not write its row in the new log. It joins again: %s", error)
            self.evicted = True
            self._wake.fire()

    async def rejoin(self) -> None:
        """Come back as a new node after an eviction."""
        await self.stop_heartbeat()
        self.node = self._world.new_id()
        await self.enter()
        self.evicted = False

    async def stop_heartbeat(self) -> None:
        """Write no more heartbeats."""
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            await asyncio.gather(self._heartbeats, return_exceptions=True)

    async def leave(self) -> None:
        """Remove this node's row, so that its leases are free at once."""
        if self._exclusive:
            return
        try:
            if not await self._cluster.write(self._cluster.node(self.node, None, self._version)):
                # The last heartbeat was written, although its task was cancelled before the answer came.
                row = (await self._cluster.read()).nodes.get(self.node)
                if row is not None:
                    await self._cluster.write(self._cluster.node(self.node, None, row.version))
        except TwofoldError as error:
            log.info("The row of this node could not be removed. The other nodes wait until it expires: %s", error)

    def may_follow(self) -> bool:
        """Whether this node may still believe that it holds its leases."""
        return self._exclusive or self._world.monotonic() - self._renewed < self._lease * _TRUSTED

    def observe(self, state: ClusterState) -> None:
        """Note when the row of each node changed last, by this node's clock."""
        now = self._world.monotonic()
        for node, row in state.nodes.items():
            if self._observed.get(node, (0, 0.0))[0] != row.version:
                self._observed[node] = row.version, now
        for node in self._observed.keys() - state.nodes.keys():
            del self._observed[node]

    async def remove_expired(self, state: ClusterState) -> None:
        """Remove the rows of nodes that expired a long time ago."""
        long_ago = self._world.monotonic() - self._lease * _LEASES_UNTIL_REMOVED
        for node, row in state.nodes.items():
            if node != self.node and self._observed[node][1] < long_ago:
                await self._cluster.write(self._cluster.node(node, None, row.version))

    def alive(self, node: str) -> bool:
        """Whether a node has written a heartbeat within the time of a lease."""
        if node == self.node:
            return True
        observed = self._observed.get(node)
        return not self._exclusive and observed is not None and self._world.monotonic() - observed[1] < self._lease

    def candidates(self, state: ClusterState, unit: WorkUnit, followed: str) -> list[str]:
        """The nodes that can follow a unit: they have the same version of its code, and the same read store.

        A unit without a read model can be followed whatever read store a node has. Nodes of a maintenance session are
        not counted.
        """
        others = [
            node
            for node, row in state.nodes.items()
            if node != self.node
            and not row.record.maintenance
            and followed in row.record.follows
            and (unit.generation is None or row.record.read_store == self._cluster.read_store)
        ]
        mine = [] if self.record.maintenance else [self.node]
        return [*mine, *(node for node in others if self.alive(node))]

    def display_name(self, node: str, state: ClusterState) -> str:
        """The name of a node for people."""
        row = state.nodes.get(node)
        return self.record.name if node == self.node else row.record.name if row else node

    async def heartbeat_loop(self) -> None:
        """Write heartbeats, whatever else takes long, until this node is evicted."""
        while not self.evicted:
            await self._world.sleep(self._lease / HEARTBEATS)
            began = self._world.monotonic()
            try:
                await self.heartbeat(began)
            except (Conflict, Unavailable) as error:
                log.warning("A heartbeat could not be written: %s", error)
            except (Exception, asyncio.CancelledError):
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                # If this loop ended, the node would lose all its leases and nothing would say why.
                log.exception("A heartbeat could not be written")

    async def heartbeat(self, began: float) -> None:
        """Write one heartbeat. It counts from when it `began`."""
        if await self._cluster.write(self._cluster.node(self.node, self.record, self._version)):
            self._version += 1
            self._renewed = began
            return
        row = (await self._cluster.read()).nodes.get(self.node)
        if row is not None:
            # An earlier heartbeat was written, although its answer was lost.
            self._version = row.version
            return
        log.warning("The other nodes removed this one, because its heartbeats did not come. It joins again.")
        self.evicted = True
        self._wake.fire()


class Observer(Membership):
    """A process that follows nothing: it writes no row, and only sees from the heartbeats which nodes are alive.

    The one process that can write to an exclusive log writes no heartbeats. It counts as alive.
    """

    async def enter(self) -> None:
        return

    async def leave(self) -> None:
        return

    async def log_replaced(self, exclusive: bool) -> None:
        self._exclusive = exclusive

    def may_follow(self) -> bool:
        return True

    def alive(self, node: str) -> bool:
        return self._exclusive or super().alive(node)
