"""How late an answer may be."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from twofold.errors import Unavailable
from twofold.world import World

T = TypeVar("T")

log = logging.getLogger(__name__)

_GRACE = 1.0
"""Seconds by which an answer may be late at least."""


class TimeLimit:
    """Ends queries that take too long, whatever they wait for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cancelled: set[asyncio.Task[Any]] = set()

    async def within(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """The result of `work`, late by at most `timeout` seconds again (and a second at least), else Unavailable.

        `work` is cancelled then. What it does on that, as to give a connection back, is not waited for.
        """
        task = asyncio.ensure_future(work)
        try:
            return await self._world.within(timeout + max(timeout, _GRACE), asyncio.shield(task))
        except TimeoutError as error:
            if task.done():
                raise
            raise Unavailable(
                "The stores are too slow or too busy to answer in the time that the query may take. Send it again, or "
                "give it more time."
            ) from error
        finally:
            if not task.done():
                task.cancel()
                self._cancelled.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._cancelled.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("A query that took too long ended with %r", error)
