"""What is known to be damaged in a log, so that no read serves it."""

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence

from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable
from twofold.write_store.chain import chain_after, chain_start
from twofold.write_store.verification import Damage, stored_tags

MOST = 1_000
"""Damages that are kept apart. Beyond them all positions from the first to the last count as damaged."""


class KnownDamage:
    """The damaged positions and remembered commands of a log that this process knows. Empty, it costs nothing."""

    def __init__(self) -> None:
        self.verified: Position = 0
        """The background check has come to here in its present round."""
        self.rounds = 0
        """How often it has checked the whole log."""
        self._damages: list[Damage] = []
        self._commands: dict[str, Damage] = {}
        self._rows: dict[tuple[str, str], Damage] = {}
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def problem(self) -> str | None:
        """What is damaged, in a sentence or two; None where nothing is known to be."""
        first = next(iter((*self._damages, *self._commands.values(), *self._rows.values())), None)
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
            if damage in self._damages or damage.command_id in self._commands or damage.row in self._rows:
                continue
            self.count += 1
            if damage.row is not None:
                # Every read compares a row with its checksum, so it need not be refused here.
                if len(self._rows) < MOST:
                    self._rows[damage.row] = damage
                continue
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

    def refuse_appends(self, batch: Sequence[tuple[Sequence[AppendCondition], str | None]]) -> None:
        """Unavailable where the conditions or the command id of an append touch damage."""
        if self.count:
            for conditions, command_id in batch:
                self.refuse(conditions)
                self.refuse_command(command_id)

    def refuse_page(
        self, conditions: Sequence[AppendCondition], events: Sequence[RecordedEvent], upto: Position
    ) -> None:
        """Unavailable where a page of the events that match any of these conditions touches damage, or has a gap."""
        if self.count:
            self.refuse(conditions, upto)
        if conditions and all(any(not i.types and not i.tags for i in each.query.items) for each in conditions):
            refuse_gap(min(each.after for each in conditions), [event.position for event in events], upto)

    def refuse_broken(self, events: Sequence[RecordedEvent], chains: Mapping[Position, bytes], log: str) -> None:
        """Unavailable where an event does not fit the chain, given the chains at the positions of `unlinked`."""
        known = {0: chain_start(log), **chains}
        for event in events:
            before = known.get(event.position - 1, b"")
            if chain_after(before, event) != event.chain:
                tags = stored_tags(event.stored_envelope.tags)
                text = f"The event at {event.position} does not fit the chain."
                self.add([Damage(event.position, text, None if tags is None else frozenset(tags))])
                self.refuse([AppendCondition(ALL_EVENTS, event.position - 1)], event.position)
            known[event.position] = event.chain


def unlinked(events: Sequence[RecordedEvent]) -> list[Position]:
    """The positions whose chains are needed to check that events fit the chain, besides their own."""
    there = {event.position for event in events}
    return [event.position - 1 for event in events if event.position > 1 and event.position - 1 not in there]


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
    """Whether a damaged event may be one that a query selects. Its type is not trusted, and its tags may be unknown."""
    tags = damage.tags
    return any(tags is None or tags.issuperset(item.tags) for item in query.items)
