"""The chain at a position of a log: checks of stored positions, and pages that end where a caller needs it."""

from collections.abc import Awaitable, Callable

from twofold.domain.event_query import ALL_EVENTS, EventQuery
from twofold.domain.events import Position
from twofold.errors import ForkedHistory, Unavailable
from twofold.write_store.chain import chain_digest, chain_start
from twofold.write_store.port import Slice, StampParts, WriteStore

DigestAt = Callable[[Position], Awaitable[str]]
"""The digest of the chain of one log at a position; empty where it has no event there, or a damaged one."""

UNCHECKED = "-"
"""In place of a digest: whatever event stands at the position."""


async def check_history(write_store: WriteStore, stamp: str, position: Position) -> Position:
    """The head of the log, whose history holds a position that was stored with a stamp.

    ForkedHistory where the log does not hold it: it is another log, it ends before that position, or another event
    stands there. A stamp with the digest UNCHECKED is not compared with the chain.
    """
    if not position:
        page = await write_store.read(ALL_EVENTS, limit=1)
        chain = chain_start(write_store.identity.log)
    else:
        page = await write_store.read(ALL_EVENTS, position - 1, limit=1)
        chain = page.events[0].chain if page.events else b""
    here = write_store.identity
    stored = StampParts.of(stamp)
    if stored is None or stored.log != here.log:
        other = stored.log if stored else repr(stamp)
        raise ForkedHistory(
            f"It is of the log {other}; this is the log {here.log}, which ends at position {page.head}."
        )
    if position > page.head:
        raise ForkedHistory(f"The log {here.log} ends at position {page.head}, before position {position}.")
    if not here.holds(stamp, position):
        raise ForkedHistory(
            f"It was reached in epoch {stored.epoch} of the log {here.log}, and a later epoch began before position "
            f"{position}."
        )
    if stored.digest not in (UNCHECKED, chain_digest(chain)):
        raise ForkedHistory(
            f"The log {here.log} has another history: its chain at position {position} is {chain_digest(chain)}, not "
            f"{stored.digest}."
        )
    return page.head


async def digest_at(write_store: WriteStore, position: Position) -> str:
    """The digest of the chain at a position; empty where no event is, or a damaged one."""
    if not position:
        return chain_digest(chain_start(write_store.identity.log))
    try:
        events = (await write_store.read(ALL_EVENTS, position - 1, limit=1)).events
    except Unavailable:
        return ""
    return chain_digest(events[0].chain) if events and events[0].position == position else ""


async def last_common_position(here: DigestAt, there: DigestAt, upto: Position) -> Position:
    """The last position, at most `upto`, up to which two logs hold the same events.

    The chain at a position stands for all events up to it: so they are the same up to one position, and from there on
    they differ. It is found by bisection.
    """
    same, other = 0, upto + 1
    while other - same > 1:
        middle = (same + other) // 2
        digest = await here(middle)
        if digest and digest == await there(middle):
            same = middle
        else:
            other = middle
    return same


async def read_up_to(write_store: WriteStore, query: EventQuery, after: Position, limit: int, to: Position) -> Slice:
    """A page of the events after a position that ends at `to` at the latest. Unavailable if there is none before."""
    page = await write_store.read(query, after, limit)
    if page.upto <= after < to:
        raise Unavailable(f"The log ends at position {page.head}, but events up to {to} are needed.")
    return await cut_at(write_store, page, to)


async def cut_at(write_store: WriteStore, page: Slice, to: Position) -> Slice:
    """The part of a page up to `to`."""
    if page.upto <= to:
        return page
    (last,) = (await write_store.read(ALL_EVENTS, to - 1, limit=1)).events
    return Slice([event for event in page.events if event.position <= to], to, page.head, last.chain)


def does_not_hold(name: str, position: Position, error: ForkedHistory) -> str:
    """What is wrong with a read model, and what to do.

    Not to delete the read model first: it may be the last copy of events that the log has lost.
    """
    return (
        f"The read model '{name}' is at position {position}, and this log does not hold that position. {error} Either "
        "another log is named, or the log has lost events. Correct the URLs of the stores, or restore the log from a "
        "backup first: the read model may be the last copy of what is lost. Only if this log is right, accept it with "
        "`twofold recover`."
    )


class HistoryCheck:
    """Checks the checkpoints of read models, and remembers which of them the log does not hold.

    While there is one, the log may have lost events that were acknowledged: no command is to be taken.
    """

    def __init__(self, write_store: WriteStore) -> None:
        self._write_store = write_store
        self._forked: dict[tuple[str, str, Position], str] = {}

    @property
    def problem(self) -> str | None:
        """Which read model is of another history than the log, in a sentence; None if none is."""
        return next(iter(self._forked.values()), None)

    def refuse(self, name: str, stamp: str, position: Position) -> None:
        """ForkedHistory where a check has found that the log does not hold this checkpoint."""
        reason = self._forked.get((name, stamp, position))
        if reason is not None:
            raise ForkedHistory(reason)

    async def check(self, name: str, stamp: str, position: Position) -> str:
        """The digest of the log at the checkpoint of a read model. ForkedHistory where the log does not hold it."""
        if not position:
            return chain_digest(chain_start(self._write_store.identity.log))
        try:
            await check_history(self._write_store, stamp, position)
        except ForkedHistory as error:
            reason = f"{does_not_hold(name, position, error)} Until then no command is taken."
            self._forked[name, stamp, position] = reason
            raise ForkedHistory(reason) from error
        self._forked.pop((name, stamp, position), None)
        stored = StampParts.of(stamp)
        assert stored is not None
        return stored.digest
