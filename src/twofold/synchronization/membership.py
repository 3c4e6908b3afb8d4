"""In charge of who is there: this node shows life by changing its row, and hears the others by theirs."""

import asyncio
import logging
from collections.abc import Callable

from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, Node
from twofold.world import World

log = logging.getLogger(__name__)

BEATS = 4
"""So many signs of life in the time of a lease."""
_TRUSTED = 2 / 3
"""The part of a lease after which a node that could show no sign of life no longer believes to hold any."""
_LEASES_TO_COME_BACK = 5


class Membership:
    """One node among others. A log that only this process can write has no others, and then nothing is written.

    `dead` is called when the other nodes have taken this one for dead: `rejoin` makes it another node.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        world: World,
        *,
        name: str,
        follows: tuple[str, ...],
        visitor: bool,
        lease_seconds: float,
        exclusive: bool,
        dead: Callable[[], None],
    ) -> None:
        self.node = world.new_id()
        self.name = name
        self.follows = follows
        self.visitor = visitor
        self.evicted = False
        self._cluster = cluster
        self._world = world
        self._lease = lease_seconds
        self._exclusive = exclusive
        self._dead = dead
        self._heard: dict[str, tuple[int, float]] = {}
        self._seen = 0
        self._renewed = world.monotonic()
        self._heartbeats: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        """Be noted, and show life from now on."""
        if self._exclusive:
            return
        if not await self._cluster.write(self._cluster.node(self.node, self._me(), 0)):
            raise Unavailable("Another node took this one's id; start again.")
        self._seen = 1
        self._renewed = self._world.monotonic()
        self._heartbeats = asyncio.create_task(self.heartbeat_loop(), name="twofold-pulse")

    async def rejoin(self) -> None:
        """Come back as another node."""
        await self.stop_heartbeat()
        self.node = self._world.new_id()
        await self.enter()
        self.evicted = False

    async def stop_heartbeat(self) -> None:
        """Show life no longer."""
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            await asyncio.gather(self._heartbeats, return_exceptions=True)

    async def leave(self) -> None:
        """Tell the others at once what they would notice in a while."""
        if self._exclusive:
            return
        try:
            if not await self._cluster.write(self._cluster.node(self.node, None, self._seen)):
                # A last sign of life was written after all, though nobody waited for the answer.
                noted = (await self._cluster.read()).nodes.get(self.node)
                if noted is not None:
                    await self._cluster.write(self._cluster.node(self.node, None, noted.version))
        except TwofoldError as error:
            log.info("The other nodes were not told that this one leaves; they will notice: %s", error)

    def held(self) -> bool:
        """Whether this node may still believe that its leases are its own."""
        return self._exclusive or self._world.monotonic() - self._renewed < self._lease * _TRUSTED

    def observe(self, board: ClusterState) -> None:
        """Note when each node last showed life, by this node's own clock."""
        now = self._world.monotonic()
        for name, noted in board.nodes.items():
            if self._heard.get(name, (0, 0.0))[0] != noted.version:
                self._heard[name] = noted.version, now
        for name in self._heard.keys() - board.nodes.keys():
            del self._heard[name]

    async def remove_expired(self, board: ClusterState) -> None:
        """Take out the rows of nodes that have been silent for long."""
        long_ago = self._world.monotonic() - self._lease * _LEASES_TO_COME_BACK
        for name, noted in board.nodes.items():
            if name != self.node and self._heard[name][1] < long_ago:
                await self._cluster.write(self._cluster.node(name, None, noted.version))

    def alive(self, name: str) -> bool:
        """Whether a node has shown life within the time of a lease."""
        if name == self.node:
            return True
        heard = self._heard.get(name)
        return not self._exclusive and heard is not None and self._world.monotonic() - heard[1] < self._lease

    def nodes(self, board: ClusterState, followed: str, *, policy: bool) -> list[str]:
        """The nodes that can follow for something: with this version of it, and a projection on the same read store."""
        others = [
            name
            for name, noted in board.nodes.items()
            if name != self.node
            and not noted.record.visitor
            and followed in noted.record.follows
            and (policy or noted.record.read_store == self._cluster.read_store)
        ]
        mine = [] if self.visitor else [self.node]
        return [*mine, *(name for name in others if self.alive(name))]

    def display_name(self, node: str, board: ClusterState) -> str:
        """The name of a node, for people."""
        known = board.nodes.get(node)
        return self.name if node == self.node else known.record.name if known else node

    async def heartbeat_loop(self) -> None:
        """Keep changing this node's row, whatever else takes long, until others have taken it for dead."""
        while not self.evicted:
            await self._world.sleep(self._lease / BEATS)
            began = self._world.monotonic()
            try:
                await self.heartbeat(began)
            except (Conflict, Unavailable) as error:
                log.warning("The other nodes could not be shown that this one lives: %s", error)
            except (Exception, asyncio.CancelledError):
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                # To end here would be to follow for nothing from now on, without a word.
                log.exception("The other nodes cannot be shown that this one lives")

    async def heartbeat(self, began: float) -> None:
        """One sign of life, which counts from when it `began`."""
        if await self._cluster.write(self._cluster.node(self.node, self._me(), self._seen)):
            self._seen += 1
            self._renewed = began
            return
        noted = (await self._cluster.read()).nodes.get(self.node)
        if noted is not None:
            # An answer was lost on the way: the row had been written.
            self._seen = noted.version
            return
        log.warning("The other nodes took this one for dead; it begins anew.")
        self.evicted = True
        self._dead()

    def _me(self) -> Node:
        return Node(self.name, self._cluster.read_store, self.visitor, self.follows)
