"""Waiting for generations to be built, with progress shown, until they catch up or make no progress."""

from collections.abc import Mapping

from twofold.cli.operator_client import OperatorClient, OperatorStatus
from twofold.cli.output import printable
from twofold.cli.progress_bar import Bars
from twofold.domain.events import Position
from twofold.errors import GenerationChanged, Unavailable

POLL = 0.2
STALLED = 60.0
"""Seconds without progress, while there are events left, after which a build is reported instead of waited for."""
FAILING = 15.0
"""The same for a build that reports an error: longer than it takes to retry an event and park its key."""


async def until_built(client: OperatorClient, numbers: Mapping[str, int]) -> None:
    """Wait until the generations with these numbers have reached the head that the poll before has seen.

    A generation that serves is built. GenerationChanged where one has been dropped, Unavailable where one makes no
    progress.
    """
    world = client.world
    progress: dict[str, tuple[Position, float]] = dict.fromkeys(numbers, (-1, world.monotonic()))
    with Bars(dict.fromkeys(numbers, "events"), world) as bars:
        target: Position | None = None
        while True:
            status = await client.status()
            positions = {name: _position(status, name, number, progress[name][0]) for name, number in numbers.items()}
            for name, position in positions.items():
                build = status.build(name, "building")
                parked = f"{build.parked_count} parked" if build is not None and build.parked_count else ""
                error = (build.error or "") if build is not None and position >= 0 else ""
                bars.update(name, max(position, 0), status.head, parked, error)
                last, since = progress[name]
                if position != last or position >= status.head:
                    progress[name] = position, world.monotonic()
                elif (stalled := world.monotonic() - since) > (FAILING if error else STALLED):
                    at = "has not started" if position < 0 else f"is stalled at {position:,} of {status.head:,} events"
                    raise Unavailable(_stalled(f"Generation {numbers[name]} of '{name}' {at}", stalled, parked, error))
            if target is not None and min(positions.values(), default=target) >= target:
                return
            target = status.head
            await world.sleep(POLL)


def _position(status: OperatorStatus, name: str, number: int, before: Position) -> Position:
    """The position of a build; -1 where it has not started yet."""
    if status.serving(name) == number:
        return status.head
    build = status.build(name, "building")
    if build is not None and build.generation == number:
        return build.position
    if before >= 0:
        raise GenerationChanged(f"Generation {number} of '{name}' is gone: it was dropped. Start the rebuild again.")
    return before


def _stalled(what: str, seconds: float, parked: str, error: str) -> str:
    problem = f"{what} for {seconds:.0f} s{f', {parked}' if parked else ''}"
    if error:
        cause = printable(error.rstrip("."))
        return f"{problem}: {cause}. Fix the cause and repeat this command to go on, or drop the build with --drop."
    return f"{problem}. `twofold projections` shows its state. Repeat this command to go on."
