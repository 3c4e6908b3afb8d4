"""The check of conditions before the lock of the log is taken."""

from collections.abc import Awaitable, Callable

import msgspec

from twofold.domain.event_query import AppendCondition
from twofold.domain.events import Position
from twofold.write_store.port import Append, Slice

_LONG_AGO = 1_000
"""A condition on several tags that reaches back further than this is checked once before the lock is taken."""


async def checked_early(
    append: Append, head: Position, first_match: Callable[[AppendCondition], Awaitable[Slice]]
) -> Append:
    """The same append. Conditions on several tags that reach far back are checked here and then begin at the head.

    All writers wait for one lock, so as much as possible is checked before it is taken.
    """
    far = head - _LONG_AGO
    if not any(_reaches_back(condition, far) for condition in append.conditions):
        return append
    conditions: list[AppendCondition] = []
    for condition in append.conditions:
        page = await first_match(condition)
        after = condition.after if page.events else max(condition.after, page.head)
        conditions.append(AppendCondition(condition.query, after))
    return msgspec.structs.replace(append, conditions=tuple(conditions))


def _reaches_back(condition: AppendCondition, far: Position) -> bool:
    return condition.after < far and any(len(item.tags) > 1 for item in condition.query.items)
