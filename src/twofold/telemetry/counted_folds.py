"""The cache of folded states, which also counts how many of the states that are decided on it had to read."""

from collections.abc import Callable, Sequence

from twofold.command_service.folds import Folds, PendingStates
from twofold.domain.decision import Fold


class CountedFolds(Folds):
    """Folds that count. `found` are all states that decisions were made on, `read` those that came from the log."""

    found = 0
    read = 0

    def present(self, folds: Sequence[Fold]) -> PendingStates | None:
        states = super().present(folds)
        if states is not None:
            self.found += len(folds)
        return states

    async def load(self, folds: Sequence[Fold], waits: Callable[[], None] = lambda: None) -> PendingStates:
        missing = sum(fold not in self._cached for fold in folds)
        states = await super().load(folds, waits)
        self.read += missing
        return states
