"""In charge of one query: wait until its read models are new enough, ask them in one snapshot, say how new it is."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from heapq import nsmallest
from typing import Any, NamedTuple, get_args, get_origin

from twofold.codec import EventCodec
from twofold.domain.events import Position, kebab_case
from twofold.domain.module import check_message
from twofold.domain.projection import BoundProjection
from twofold.domain.type_hints import hints_of
from twofold.errors import Unavailable, UnknownMessage, WiringError
from twofold.query_service.log_view import LogView
from twofold.query_service.log_views import LogViews
from twofold.query_service.monotonic_reads import Lagging, MonotonicReads
from twofold.query_service.view import View
from twofold.read_store.port import Progress, ReadModel, ReadStore, Snapshot
from twofold.signal import Signal, wait_for
from twofold.world import World
from twofold.write_store.port import WriteStore

_POLL = 0.05
_SETTLE = 5.0
"""Seconds a live query waits for a new generation to come as far as the one before."""
MAX_PARKED_SHOWN = 20


class QueryFunction(NamedTuple):
    """A query function, read: the query it answers, the answer's type, the projections its parameters name."""

    name: str
    function: Callable[..., Any]
    query: type
    returns: Any
    views: Mapping[str, str]


class ViewSource(NamedTuple):
    """What one parameter of a query function stands for."""

    model: ReadModel
    snapshot: Snapshot


class QueryResult(NamedTuple):
    """An answer, the position it reflects (its lowest checkpoint), and the first parked keys of its read models, of
    which there are `parked_count`."""

    value: Any
    position: Position
    parked: tuple[str, ...]
    parked_count: int


class QueryService:
    """Answers typed queries from the read store, or for live and inline projections from the write store.

    `models` tells by projection which generation serves now; it may change at any time. `moved` fires when a read model
    has come further. What has been answered from one
    generation is never followed by an older answer from the next: it is waited for as for a position.
    """

    def __init__(
        self,
        functions: Iterable[Callable[..., Any]],
        models: Mapping[str, ReadModel],
        projections: Mapping[str, BoundProjection],
        events: EventCodec,
        world: World,
        moved: Signal,
    ) -> None:
        by_row: dict[type, list[str]] = {}
        for name, projection in projections.items():
            by_row.setdefault(projection.row, []).append(name)
        self._models = models
        self._of_log = LogViews(projections, events)
        self._log: WriteStore | None = None
        self._switches = MonotonicReads(projections)
        self.by_name: dict[str, QueryFunction] = {}
        self._by_type: dict[type, QueryFunction] = {}
        self._world = world
        self._moved = moved
        for function in functions:
            self._add(read_query_function(function, by_row))

    def begin(self, log: WriteStore) -> None:
        """Answer from this log, and forget what was answered before: another run may know another history."""
        self._log = log
        self._switches.forget()

    async def answer(self, read_store: ReadStore, query: object, at_least: Position, timeout: float) -> QueryResult:
        """The answer to `query` from one snapshot that is at least as new as `at_least`.

        Unavailable with the lag if that does not come within `timeout` seconds, or if the row asked for is set aside.
        UnknownMessage where no query function takes it. The function is called again where another generation has begun
        to serve and the one it asked fails: its rows may have been dropped.
        """
        function = self.function_of(type(query))
        deadline = self._world.monotonic() + timeout
        while True:
            moved = self._moved.next
            models = {name: self._models[name] for name in function.views.values() if name not in self._of_log}
            late = await self._switches.late(models, read_store, self._log)
            if late is None:
                try:
                    found = await self._answer(function, query, read_store, models, at_least)
                except (Unavailable, WiringError):
                    if all(self._models[name] == model for name, model in models.items()):
                        raise
                    # What was asked serves no more and may have been dropped meanwhile: ask what serves now.
                    continue
                if isinstance(found, QueryResult):
                    return found
                late = found
            left = deadline - self._world.monotonic()
            if left <= 0:
                name, reached, wanted = late
                raise Unavailable(
                    f"The read model '{name}' is {wanted - reached} events behind what was "
                    f"asked for (at {reached}, wanted {wanted}). Ask again.",
                    lag=wanted - reached,
                )
            await wait_for(moved, min(left, _POLL), self._world)

    async def _answer(
        self,
        function: QueryFunction,
        query: object,
        read_store: ReadStore,
        models: Mapping[str, ReadModel],
        at_least: Position,
    ) -> QueryResult | Lagging:
        """The answer, or the read model that is too far behind for one."""
        async with AsyncExitStack() as opened:
            asked = await self._open(function, read_store, models, opened)
            progress = {each: await snapshot.progress(model) for each, (model, snapshot) in asked.items()}
            late = _late(asked, progress, at_least)
            if late is not None:
                return late
            position = min((each.position for each in progress.values()), default=at_least)
            answered = await _ask(function, query, asked, progress, at_least, position)
            self._switches.answered(models)
            return answered

    async def _open(
        self, function: QueryFunction, read_store: ReadStore, models: Mapping[str, ReadModel], opened: AsyncExitStack
    ) -> dict[str, ViewSource]:
        """What each parameter stands for: a read model, all in one snapshot, or rows of the write store."""
        of_log: dict[str, LogView] = {}
        if self._log is not None:
            of_log = await self._of_log.rows(function.views.values(), self._log)
        asked = {
            each: ViewSource(of_log[name].model, of_log[name])
            for each, name in function.views.items()
            if name in of_log
        }
        if models:
            snapshot = await opened.enter_async_context(read_store.snapshot())
            asked |= {
                each: ViewSource(models[name], snapshot) for each, name in function.views.items() if name in models
            }
        return asked

    async def live(
        self, read_store: ReadStore, query: object, pause: float, going_on: Callable[[], bool]
    ) -> AsyncIterator[QueryResult]:
        """The answer now, and again whenever it has become another, as long as it is `going_on`."""
        last: QueryResult | None = None
        while going_on():
            moved = self._moved.next
            answered = await self.answer(read_store, query, 0, _SETTLE)
            if last is None or answered._replace(position=0) != last._replace(position=0):
                last = answered
                yield answered
            await wait_for(moved, pause, self._world)

    def function_of(self, query: type) -> QueryFunction:
        """The function that answers a type of query. UnknownMessage where there is none."""
        if query not in self._by_type:
            raise UnknownMessage(f"No query function takes {query.__name__}. Add one to `queries=[…]`.")
        return self._by_type[query]

    def _add(self, function: QueryFunction) -> None:
        known = self._by_type.setdefault(function.query, function)
        if known is not function:
            raise WiringError(
                f"{known.function.__qualname__} and {function.function.__qualname__} both answer "
                f"{function.query.__name__}; keep one, or give it a query of its own."
            )
        if function.name in self.by_name:
            raise WiringError(f"Two queries share the name '{function.name}'; rename one of the types.")
        self.by_name[function.name] = function


def _late(asked: Mapping[str, ViewSource], progress: Mapping[str, Progress], at_least: Position) -> Lagging | None:
    """The read model that is furthest behind what was asked for; None if none is."""
    behind = [(asked[each].model.name, now.position, at_least) for each, now in progress.items()]
    return min((each for each in behind if each[1] < at_least), key=lambda each: each[1], default=None)


async def _ask(
    function: QueryFunction,
    query: Any,
    asked: Mapping[str, ViewSource],
    progress: Mapping[str, Progress],
    at_least: Position,
    position: Position,
) -> QueryResult:
    parked = {name: frozenset(p.key for p in each.parked) for name, each in progress.items()}
    views: dict[str, View[Any]] = {
        name: View(model, snapshot, refuse=parked[name] if at_least else frozenset())
        for name, (model, snapshot) in asked.items()
    }
    value = await function.function(query, **views)
    keys = frozenset[str]().union(*parked.values())
    return QueryResult(value, position, tuple(nsmallest(MAX_PARKED_SHOWN, keys)), len(keys))


def read_query_function(function: Callable[..., Any], by_row: Mapping[type, list[str]]) -> QueryFunction:
    """A query function's signature, read. WiringError, with the cure, where it does not fit the read models."""
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise WiringError(f"{name} answers a query and must be `async def`.")
    hints = hints_of(function, name)
    parameters = list(inspect.signature(function).parameters)
    if not parameters or any(p not in hints for p in parameters) or "return" not in hints:
        raise WiringError(
            f"{name}: annotate every parameter and the answer, e.g. `(query: Q, rows: View[Row]) -> list[Row]`."
        )
    query = hints[parameters[0]]
    check_message(query, "query")
    views = {p: _projection_of(name, p, hints[p], by_row) for p in parameters[1:]}
    return QueryFunction(kebab_case(query.__name__), function, query, hints["return"], views)


def _projection_of(name: str, parameter: str, hint: Any, by_row: Mapping[type, list[str]]) -> str:
    if get_origin(hint) is not View:
        raise WiringError(f"{name}: parameter '{parameter}' must be a View[Row] of a projection's row type.")
    (row,) = get_args(hint)
    found = by_row.get(row, [])
    if len(found) != 1:
        named = ", ".join(found) or "none"
        raise WiringError(
            f"{name}: View[{row.__name__}] must mean one projection, but these fold {row.__name__}: {named}. "
            "List a projection with that row type, and give each projection a row type of its own."
        )
    return found[0]
