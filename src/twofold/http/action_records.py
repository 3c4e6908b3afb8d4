"""What operators did, as it is sent."""

from datetime import UTC, datetime, timedelta

import msgspec

from twofold.domain.events import Position
from twofold.synchronization.cluster_state import OperatorAction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ActionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator requested, and what came of it. `done` is false where it could not be done; `outcome` says
    why."""

    what: str
    name: str
    key: str
    actor: str | None
    time: datetime
    done: bool
    outcome: str
    generation: int
    version: int
    position: Position


def action_record(action: OperatorAction) -> ActionRecord:
    fields = msgspec.structs.asdict(action)
    own = {name: fields[name] for name in ActionRecord.__struct_fields__ if name in fields}
    return ActionRecord(time=_EPOCH + timedelta(microseconds=action.at), **own)
