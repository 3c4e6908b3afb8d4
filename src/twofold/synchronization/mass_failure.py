"""Detection of a mass failure: a projection that fails for many keys stops instead of parking all of them."""

_WINDOW = 4
"""The share is that among the last keys: about this many times as many as may fail in a row."""


class MassFailure(Exception):
    """Too many keys fail: the projection has stopped before one of them."""


class Breaker:
    """Counts keys that were folded and keys that were parked, and says when to stop.

    It opens after `keys` parked keys in a row, or when more than a `share` of the last keys (at least `keys`) were
    parked. `keys` 0: it never opens. Once it has stopped the projection, the next key that is folded closes it.
    """

    def __init__(self, keys: int, share: float) -> None:
        self._keys = keys
        self._share = share
        self._in_a_row = self._parked = self._seen = 0
        self._stopped = False

    def stops(self) -> str | None:
        """Why the projection is to stop instead of parking another key; None if it may park it."""
        reason = self._reason()
        self._stopped = reason is not None
        return reason

    def count(self, *, folded: int, parked: int) -> None:
        """Take note of what was saved."""
        if folded:
            if self._stopped:
                self._parked = self._seen = 0
            self._in_a_row, self._stopped = 0, False
        self._in_a_row += parked
        self._parked += parked
        self._seen += folded + parked
        while self._keys and self._seen > _WINDOW * self._keys:
            # What is long ago counts less and less.
            self._parked, self._seen = self._parked // 2, self._seen // 2

    def _reason(self) -> str | None:
        if not self._keys:
            return None
        if self._in_a_row >= self._keys:
            return f"{self._in_a_row} keys in a row could not be folded"
        if self._seen >= self._keys and self._parked > self._share * self._seen:
            return f"{self._parked} of the last {self._seen} keys could not be folded"
        return None
