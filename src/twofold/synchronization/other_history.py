"""What to say where a read model is at a position that the log does not hold."""

from twofold.domain.events import Position
from twofold.write_store.port import LogIdentity


def does_not_hold(name: str, position: Position, stamp: str, here: LogIdentity, head: Position) -> str:
    """What is wrong, and what to do. Not to delete the read model first: it may be the last copy of lost events."""
    return (
        f"The read model '{name}' is at position {position} of the log {stamp}, but this log ({here.stamp}) ends at "
        f"position {head} and does not hold that position. Either another log is named, or the log has lost events. "
        "Correct the URLs of the stores, or restore the log from a backup first: the read model may be the last copy "
        "of what is lost. Only if this log is right, delete the read database: Twofold builds it again."
    )
