"""What an app answers to its callers: the receipt of a command, the answer to a query."""

from typing import Any

import msgspec

from twofold.domain.events import Position


class Receipt(msgspec.Struct, frozen=True):
    """What a command answers: its id, its events' ids, and the position a reader must have reached to see them.

    `token` is that position as callers carry it. `repeated` says that the command had been handled before. `late` names
    those that were to be waited for and had not come so far in time: the command is written all the same. For
    `remembered_seconds` from now, at least, the command can be sent again under its id; None in a repeated receipt,
    since that time runs from the first one.
    """

    command_id: str
    position: Position
    token: str
    events: list[str]
    repeated: bool = False
    late: list[str] = []
    remembered_seconds: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """What a query answers: the value, the position it reflects, and the first parked keys of the read models it asked,
    of which there are `parked_count`."""

    value: Any
    position: Position
    token: str
    parked: list[str]
    parked_count: int
