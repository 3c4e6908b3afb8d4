"""Queries that read one row by its key: one request to the read store brings the row and the progress of its model."""

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar, Unpack

from twofold.domain.events import Position
from twofold.query_service.view import View, key_text
from twofold.read_store.port import FindOptions, FindPage, Native, Progress, ReadModel, ReadStore

R = TypeVar("R")


class SnapshotNeeded(BaseException):
    """Ends a query function that has to be called again with views of a snapshot. No `except Exception` catches it."""


class OneRowView(View[R]):
    """A view without a snapshot: it reads one row, and what else it is asked for ends the function.

    `progress` is that of the moment of the row, None before it is read. `reads_more`: it was asked for another row, or
    for something else. `needs_snapshot`: what it has read is not new enough, or does not tell whether the row is.
    """

    def __init__(self, model: ReadModel, read_store: ReadStore, at_least: Position) -> None:
        self._none = _NoSnapshot()
        super().__init__(model, self._none)
        self._read_store = read_store
        self._at_least = at_least
        self._asked = False
        self.progress: Progress | None = None

    @property
    def reads_more(self) -> bool:
        return self._none.wanted

    @property
    def needs_snapshot(self) -> bool:
        now = self.progress
        if self.reads_more or now is None or now.position < self._at_least:
            return True
        return self._at_least > 0 and not now.parked.complete

    async def get(self, key: object) -> R | None:
        """See `View.get`."""
        text = key_text(key)
        if self._asked:
            self._none.want()
        self._asked = True
        found = await self._read_store.lookup(self._model, text)
        progress = self.progress = found.progress
        if self.needs_snapshot:
            raise SnapshotNeeded
        if self._at_least and progress.parked.count:
            self._refuse(progress.parked, self._at_least)
            await self._refuse_parked(text)
        row: R | None = found.row
        return row


class _NoSnapshot:
    """Takes the place of a snapshot, and notes that one is wanted."""

    def __init__(self) -> None:
        self.wanted = False

    def want(self) -> NoReturn:
        self.wanted = True
        raise SnapshotNeeded

    async def get(self, model: ReadModel, key: str) -> Any | None:
        self.want()

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        self.want()

    async def progress(self, model: ReadModel) -> Progress:
        self.want()

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        self.want()

    def native(self, model: ReadModel) -> Native:
        self.want()
