"""What an observer of the command service learns: how long decisions and appends took, and which conflicted."""

from collections.abc import Sequence
from typing import Protocol

from twofold.write_store.port import Append, Outcome


class CommandObserver(Protocol):
    """Is called after something was done, for every command: it must return at once, and not raise.

    Seconds are those of the monotonic clock of the app's world.
    """

    def decided(self, decision: str, seconds: float) -> None:
        """A decision function has returned or raised. Called in the task of the command, again for each repeat."""
        ...

    def conflicted(self, command: type) -> None:
        """Another process wrote first: the command is decided again."""
        ...

    def appended(self, batch: Sequence[Append], outcomes: Sequence[Outcome], seconds: float) -> None:
        """The write store has taken a batch. Not called where it raised."""
        ...


class _UnobservedCommands:
    def decided(self, decision: str, seconds: float) -> None:
        return None

    def conflicted(self, command: type) -> None:
        return None

    def appended(self, batch: Sequence[Append], outcomes: Sequence[Outcome], seconds: float) -> None:
        return None


UNOBSERVED: CommandObserver = _UnobservedCommands()
"""Notes nothing."""
