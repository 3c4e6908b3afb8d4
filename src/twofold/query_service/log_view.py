"""What views of live and inline projections share: rows by key from the write store, and nothing else."""

import abc
from collections.abc import Mapping
from typing import Any, NoReturn, Unpack

from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import UndeclaredAccess
from twofold.read_store.port import FindOptions, FindPage, Native, Progress, ReadModel
from twofold.write_store.port import WriteStore


class LogView(abc.ABC):
    """A projection that has no follower, within one answer. `head` is the log's head before any row was read.

    `digest` is that of the chain at the head.
    """

    def __init__(self, projection: BoundProjection, log: WriteStore, head: Position, digest: str) -> None:
        self.projection = projection
        self.log = log
        self.head = head
        self.digest = digest

    @property
    def model(self) -> ReadModel:
        """The read model that stands for it."""
        return ReadModel(self.projection.name, 0, self.projection.row)

    @abc.abstractmethod
    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The row of a key, or None."""

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        """UndeclaredAccess: these rows are read by key only."""
        self._refuse()

    def native(self, model: ReadModel) -> Native:
        """UndeclaredAccess: these rows are not in a read store."""
        self._refuse()

    async def progress(self, model: ReadModel) -> Progress:
        """The head of the log."""
        return Progress(self.head, self.log.identity.stamp(self.digest), 0)

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        """False: there is no follower that parks keys."""
        return False

    def _refuse(self) -> NoReturn:
        name, lifecycle = self.projection.name, self.projection.lifecycle
        raise UndeclaredAccess(
            f"'{name}' is {lifecycle}: its rows are read by key only. Ask by key (`get`), or make it lifecycle='async'."
        )
