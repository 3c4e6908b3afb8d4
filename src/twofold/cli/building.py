"""In charge of waiting for generations that are built: shown as they come, and given up on where nothing moves."""

from collections.abc import Mapping

from twofold.cli.output import printable
from twofold.cli.progress_bar import Bars
from twofold.cli.rebuild_client import By, Seen
from twofold.domain.events import Position
from twofold.errors import Conflict, Unavailable

POLL = 0.2
STALLED = 60.0
"""Seconds after which a build that has not moved, though the log goes on, is reported instead of waited for."""
FAILING = 15.0
"""The same where it tells an error: longer than it takes to try an event again and set its key aside."""


async def until_built(by: By, numbers: Mapping[str, int]) -> None:
    """Wait until the generations with these numbers have come to where the log ended a look before.

    One that serves already counts as built. Conflict where somebody has given one up, Unavailable where one stands
    still.
    """
    world = by.world
    moved: dict[str, tuple[Position, float]] = dict.fromkeys(numbers, (-1, world.monotonic()))
    with Bars(list(numbers), "events", world) as bars:
        wanted: Position | None = None
        while True:
            seen = await by.look()
            at = {name: _position(seen, name, number, moved[name][0]) for name, number in numbers.items()}
            for name, position in at.items():
                build = seen.build(name, "building")
                parked = f"{build.parked} parked" if build is not None and build.parked else ""
                error = (build.error or "") if build is not None and position >= 0 else ""
                bars.come(name, max(position, 0), seen.head, parked, error)
                if position != moved[name][0] or position >= seen.head:
                    moved[name] = position, world.monotonic()
                elif (still := world.monotonic() - moved[name][1]) > (FAILING if error else STALLED):
                    raise Unavailable(_still(name, numbers[name], position, seen.head, still, parked, error))
            if wanted is not None and min(at.values(), default=wanted) >= wanted:
                return
            wanted = seen.head
            await world.sleep(POLL)


def _position(seen: Seen, name: str, number: int, before: Position) -> Position:
    """How far a build is; -1 where it is not to be seen yet."""
    if seen.serving.get(name) == number:
        return seen.head
    build = seen.build(name, "building")
    if build is not None and build.generation == number:
        return build.position
    if before >= 0:
        raise Conflict(f"Generation {number} of '{name}' is gone: somebody has given it up. Begin anew.")
    return before


def _still(name: str, number: int, position: Position, head: Position, seconds: float, parked: str, error: str) -> str:
    where = "has not been begun" if position < 0 else f"stands still at {position:,} of {head:,} events"
    told = f"Generation {number} of '{name}' {where} for {seconds:.0f} s{f', {parked}' if parked else ''}"
    if error:
        why = printable(error.rstrip("."))
        return f"{told}: {why}. Mend that, and call this again to go on; or give it up with --drop."
    return f"{told}. `twofold projections` shows what it waits for; call this again to go on."
