"""The rows that pause a policy which answers too deep, and that put the pause on record."""

import msgspec

from twofold.domain.events import Position
from twofold.synchronization.cluster_state import ACTS, OperatorAction, Pause, pause_row
from twofold.world import World, microseconds
from twofold.write_store.port import RowWrite


def pause_rows(policy: str, position: Position, reason: str, world: World) -> list[RowWrite]:
    """The rows, for the caller to write, that pause a policy before the event at a position and put that on record."""
    now = microseconds(world.now())
    outcome = f"It is paused: {reason}"
    action = OperatorAction(
        what="pause", name=policy, key="", actor=None, at=now, done=True, outcome=outcome, position=position
    )
    record = RowWrite(ACTS, f"{now}-{world.new_id()}", msgspec.json.encode(action), 0)
    return [pause_row("", policy, Pause(reason, None, now, position), 0), record]
