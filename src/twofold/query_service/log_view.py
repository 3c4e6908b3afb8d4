"""In charge of what live and inline views have in common: rows by key from the write store, and nothing else."""

import abc
from collections.abc import Mapping
from typing import Any, NoReturn, Unpack

from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import UndeclaredAccess
from twofold.read_store.port import FindOptions, FindPage, Native, Progress, ReadModel
from twofold.write_store.port import WriteStore


class LogView(abc.ABC):
    """A projection no follower keeps rows for, within one answer. `head` was the log's before any row was read."""

    def __init__(self, projection: BoundProjection, log: WriteStore, head: Position) -> None:
        self.projection = projection
        self.log = log
        self.head = head

    @property
    def model(self) -> ReadModel:
        """The read model it would be."""
        return ReadModel(self.projection.name, 0, self.projection.row)

    @abc.abstractmethod
    async def get(self, model: ReadModel, key: str) -> Any | None:
        """The row of a key, or None."""

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        """UndeclaredAccess: rows are not to be searched here."""
        self._refuse()

    def native(self, model: ReadModel) -> Native:
        """UndeclaredAccess: there is no read store behind it."""
        self._refuse()

    async def progress(self, model: ReadModel) -> Progress:
        """As far as the log itself."""
        return Progress(self.head, self.log.identity.stamp, 0)

    def _refuse(self) -> NoReturn:
        name, lifecycle = self.projection.name, self.projection.lifecycle
        raise UndeclaredAccess(
            f"'{name}' is {lifecycle}: its rows are read by key only. Ask by key (`get`), or make it lifecycle='async'."
        )
