"""The slow check of a log for damage, round after round, while its app runs."""

import asyncio
import logging
from collections.abc import Sequence

from twofold.errors import Unavailable
from twofold.world import World, microseconds
from twofold.write_store.current_log import CurrentLog
from twofold.write_store.log_check import LogRange, checked_pages
from twofold.write_store.port import Verifiable
from twofold.write_store.verification import Damage, LogUnreadable

log = logging.getLogger(__name__)

_PAGE = 100
_BETWEEN_ROUNDS = 60.0


async def check_forever(store: Verifiable, world: World, events_per_second: int) -> None:
    """Check the whole log again and again, so many events a second at most, until this is cancelled.

    Damage that is found is refused by all reads of the store from then on. The files themselves are not checked.
    """
    while True:
        try:
            await _check_once(store, world, _PAGE / events_per_second)
        except Unavailable as error:
            log.warning("The log could not be checked for damage: %s", error)
        await world.sleep(_BETWEEN_ROUNDS)


async def check_current_log(current: CurrentLog, world: World, events_per_second: int) -> None:
    """The same for the log of a running app, which may be replaced. Returns where it is in memory.

    Raises what the check raises.
    """
    while isinstance(present := current.present, Verifiable):
        replaced = current.replaced.next
        checking = asyncio.create_task(check_forever(present, world, events_per_second), name="twofold-verify-log")
        waiting = asyncio.create_task(replaced.wait(), name="twofold-verify-replaced")
        try:
            await asyncio.wait([checking, waiting], return_when=asyncio.FIRST_COMPLETED)
            # A store that was replaced is closed: an error of its check means nothing.
            if not replaced.is_set():
                checking.result()
        finally:
            checking.cancel()
            waiting.cancel()
            await asyncio.wait([checking, waiting])


async def _check_once(store: Verifiable, world: World, pause: float) -> None:
    try:
        head = (await store.raw_log().head()).position
    except LogUnreadable as error:
        _note(store, [Damage(0, f"The head of the log cannot be read: {error}.")])
        return
    pages = checked_pages(
        store, LogRange(1, head, head), page=_PAGE, now=lambda: microseconds(world.now()), files=False
    )
    async for page in pages:
        _note(store, page.damages)
        if page.part == "events":
            store.damage.verified = page.done
        await world.sleep(pause)
    store.damage.rounds += 1


def _note(store: Verifiable, damages: Sequence[Damage]) -> None:
    before = store.damage.count
    store.damage.add(damages)
    if store.damage.count > before:
        log.error("%s", store.damage.problem)
