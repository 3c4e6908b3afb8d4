"""What an observer of the synchronization learns: which pages followers apply, and which events policies answer."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from twofold.domain.events import RecordedEvent
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.port import Slice

NOTHING: AbstractContextManager[object] = nullcontext()
"""A context in which nothing is observed. It can be entered any number of times."""


class FollowerObserver(Protocol):
    """Gives the context in which a follower works. Errors of the work leave that context, and are raised again."""

    def page(self, unit: WorkUnit, page: Slice) -> AbstractContextManager[object]:
        """The context in which a page is applied."""
        ...

    def reaction(self, policy: str, recorded: RecordedEvent) -> AbstractContextManager[object]:
        """The context in which a policy answers an event, and sends its commands."""
        ...


class _UnobservedFollowers:
    def page(self, unit: WorkUnit, page: Slice) -> AbstractContextManager[object]:
        return NOTHING

    def reaction(self, policy: str, recorded: RecordedEvent) -> AbstractContextManager[object]:
        return NOTHING


UNOBSERVED: FollowerObserver = _UnobservedFollowers()
"""Notes nothing."""
