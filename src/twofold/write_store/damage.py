"""What is known to be damaged in a log, so that no read serves it."""

from bisect import insort
from collections.abc import Iterable, Sequence

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.write_store.verification import Damage

MOST = 1_000
"""Damages that are kept apart. Beyond them all positions from the first to the last count as damaged."""


class KnownDamage:
    """The damaged positions and remembered commands of a log that this process knows. Empty, it costs nothing."""

    def __init__(self) -> None:
        self._damages: list[Damage] = []
        self._commands: dict[str, Damage] = {}
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def problem(self) -> str | None:
        """What is damaged, in a sentence or two; None where nothing is known to be."""
        first = next(iter((*self._damages, *self._commands.values())), None)
        if first is None:
            return None
        more = f" {self.count - 1:,} more damages are known." if self.count > 1 else ""
        return (
            f"The log is damaged. {first.message}{more} What touches them is refused. Run `twofold verify`, then "
            "restore the log from a backup."
        )

    def add(self, damages: Iterable[Damage]) -> None:
        """Refuse from now on what touches these. Those that are known are ignored."""
        for damage in damages:
            if damage in self._damages or damage.command_id in self._commands:
                continue
            self.count += 1
            if damage.command_id is not None:
                if len(self._commands) < MOST:
                    self._commands[damage.command_id] = damage
                continue
            insort(self._damages, damage, key=lambda each: each.position)
            if len(self._damages) > MOST:
                first, last = self._damages[0], max(each.end for each in self._damages)
                self._damages = [Damage(first.position, first.message, last=last)]

    def refuse(self, conditions: Sequence[AppendCondition], upto: Position | None = None) -> None:
        """Unavailable where a read of what may match any of these conditions, up to a position, touches damage."""
        for damage in self._damages:
            for condition in conditions:
                reached = upto is None or damage.position <= upto
                if reached and damage.end > condition.after and _may_match(condition.query, damage):
                    raise Unavailable(
                        f"The log is damaged at position {damage.position}, and this read needs what stands there. "
                        f"{damage.message} Run `twofold verify`, then restore the log from a backup.",
                        retry_after=60.0,
                    )

    def refuse_command(self, command_id: str | None) -> None:
        """Unavailable where what is remembered of a command is damaged."""
        if command_id in self._commands:
            raise Unavailable(f"The log is damaged. {self._commands[command_id].message}", retry_after=60.0)

    def before(self, after: Position, limit: int | None) -> int | None:
        """A limit with which a page of all events after a position ends before the next damage, where it can."""
        first = next((each.position for each in self._damages if each.position > after), None)
        sound = 0 if first is None else first - after - 1
        return min(limit, sound) if limit is not None and sound else limit


def refuse_gap(after: Position, positions: Sequence[Position], upto: Position) -> None:
    """Unavailable where a page of all events after a position, up to `upto`, lacks one."""
    if len(positions) == max(0, upto - after):
        return
    there = set(positions)
    missing = next((position for position in range(after + 1, upto + 1) if position not in there), upto)
    raise Unavailable(
        f"The log is damaged at position {missing}: the event there is missing. Run `twofold verify`, then restore the "
        "log from a backup.",
        retry_after=60.0,
    )


def _may_match(query: EventQuery, damage: Damage) -> bool:
    """Whether a damaged event may be one that a query selects. Its type is not trusted."""
    tags = damage.tags
    return tags is None or any(tags.issuperset(item.tags) for item in query.items)
