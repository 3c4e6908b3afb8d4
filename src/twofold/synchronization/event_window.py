"""The events that a policy has read beyond its checkpoint: which are done, and how far the checkpoint may move."""

from collections import deque

from twofold.domain.events import Position


class EventWindow:
    """Positions that were read, and those of them that are not done. The checkpoint moves on in order of position."""

    def __init__(self, position: Position) -> None:
        self._upto = position
        self._order: deque[Position] = deque()
        self._open: set[Position] = set()
        self._unsaved: set[Position] = set()

    def __len__(self) -> int:
        """How many events are between the checkpoint that may be saved and the last one that was read."""
        self._trim()
        return len(self._order)

    @property
    def upto(self) -> Position:
        """The position up to which the log is read."""
        return self._upto

    @property
    def done(self) -> Position:
        """The position up to which every event is done."""
        self._trim()
        return self._order[0] - 1 if self._order else self._upto

    def read(self, position: Position) -> None:
        """Note that the log is read up to a position. Events up to there were added before."""
        self._upto = max(self._upto, position)

    def add(self, position: Position) -> None:
        """Note an event that is to be answered. Positions go up."""
        self._order.append(position)
        self._open.add(position)

    def finish(self, position: Position, *, saved: bool) -> None:
        """Note that an event is done. `saved`: the store knows that, also beyond the checkpoint."""
        self._open.discard(position)
        if not saved:
            self._unsaved.add(position)

    def to_save(self) -> frozenset[Position]:
        """The events beyond `done` that are done and not saved as such."""
        done = self.done
        self._unsaved = {position for position in self._unsaved if position > done}
        return frozenset(self._unsaved)

    def saved(self, positions: frozenset[Position]) -> None:
        """Note that the store knows that these are done."""
        self._unsaved -= positions

    def _trim(self) -> None:
        while self._order and self._order[0] not in self._open:
            self._order.popleft()
