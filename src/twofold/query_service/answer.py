"""The answer to one query: wait until its read models are new enough, then read them in one snapshot."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from twofold.codec import EventCodec
from twofold.domain.actor import Actor
from twofold.domain.events import Position
from twofold.domain.projection import BoundProjection
from twofold.errors import (
    FunctionFailed,
    NotAuthenticated,
    TwofoldError,
    Unavailable,
    UnknownMessage,
    WiringError,
    failed,
)
from twofold.query_service.live_queries import NOTHING_SEEN, Computed, LiveQueries, Spend, live_key
from twofold.query_service.log_views import LogViews
from twofold.query_service.monotonic_reads import Lagging, MonotonicReads
from twofold.query_service.one_row import OneRowView, SnapshotNeeded
from twofold.query_service.query_function import QueryFunction, read_query_function, shown
from twofold.query_service.time_limit import TimeLimit
from twofold.query_service.view import View
from twofold.read_store.parked_summary import merged_summary
from twofold.read_store.port import Progress, ReadModel, ReadStore, Snapshot
from twofold.signal import Signal, wait_for
from twofold.world import World
from twofold.write_store.history import HistoryCheck
from twofold.write_store.port import WriteStore

_encode = msgspec.json.Encoder().encode
_SHORTEST_POLL = 0.004
_POLL = 0.05
_SETTLE = 5.0
"""Seconds a live query waits for a new generation to reach the position of the one before."""


class ActorQuery(NamedTuple):
    """A query, and who asks it; None where nobody is known."""

    query: object
    actor: Actor | None = None


class ViewSource(NamedTuple):
    """What the view of one parameter reads."""

    model: ReadModel
    snapshot: Snapshot


class QueryResult(NamedTuple):
    """An answer, the position it reflects (its lowest checkpoint), and the first of the parked keys of its read models.

    `stamp` was stored with that position; it is empty where nothing was. `parked_count` counts all parked keys: if they
    are too many to name, one that is parked in several read models of the query counts once for each.
    """

    value: Any
    position: Position
    stamp: str
    parked: tuple[str, ...]
    parked_count: int


class LiveOptions(NamedTuple):
    """How one listener listens: `pause` and `timeout` are seconds. With `render` the values of answers are JSON."""

    pause: float
    render: Callable[..., Any] | None = None
    at_least: Position = 0
    timeout: float = _SETTLE


class QueryService:
    """Answers typed queries from the read store, or for live and inline projections from the write store.

    `models` has, for each projection, the generation that serves now; it may change at any time. `moved` fires when a
    read model has made progress. `paused_because` says why a projection is paused, None if it is not: nothing waits for
    one that is. An answer is never older than an earlier answer from another generation: the service
    waits for the new generation as it waits for a position.
    """

    def __init__(
        self,
        functions: Iterable[Callable[..., Any]],
        models: Mapping[str, ReadModel],
        projections: Mapping[str, BoundProjection],
        events: EventCodec,
        world: World,
        moved: Signal,
        paused_because: Callable[[str], str | None],
    ) -> None:
        by_row: dict[type, list[str]] = {}
        for name, projection in projections.items():
            by_row.setdefault(projection.row, []).append(name)
        self._models = models
        self._log_views = LogViews(projections, events)
        self._log: WriteStore | None = None
        self._history: HistoryCheck | None = None
        self._look: Callable[[], Awaitable[None]] | None = None
        self._monotonic = MonotonicReads(projections)
        self.by_name: dict[str, QueryFunction] = {}
        self._by_type: dict[type, QueryFunction] = {}
        self._reading_more: set[str] = set()
        self._world = world
        self._moved = moved
        self._live = LiveQueries(world, moved)
        self.time_limit = TimeLimit(world)
        self._paused_because = paused_because
        for function in functions:
            self._add(read_query_function(function, by_row))

    def begin(self, log: WriteStore, history: HistoryCheck, look: Callable[[], Awaitable[None]] | None = None) -> None:
        """Answer from this log. Earlier answers are forgotten: they may belong to another history.

        Read models that `history` has found to be of another history do not answer. `look` looks again which generation
        serves, where other processes follow: what this one knows may be a second old.
        """
        self._log = log
        self._history = history
        self._look = look
        self._monotonic.forget()

    async def answer(self, read_store: ReadStore, asked: ActorQuery, at_least: Position, timeout: float) -> QueryResult:
        """The answer to what is `asked` from one snapshot that is at least as new as `at_least`.

        Unavailable, with the lag, where no read model is that new within `timeout` seconds, or where the row asked for
        is parked. UnknownMessage where no query function takes the query. The function is called again where it fails
        and another generation serves by then: the rows it read may have been dropped. See `time_limit`.
        """
        function = self.function_of(type(asked.query))
        _check_actor(function, asked.actor)
        deadline, pause, looked = self._world.monotonic() + timeout, _SHORTEST_POLL, False
        while True:
            moved = self._moved.next
            models = {name: self._models[name] for name in function.views.values() if name not in self._log_views}
            lagging = await self._monotonic.lagging(models, read_store, self._log)
            if lagging is None:
                try:
                    result = await self._answer(function, asked, read_store, models, at_least)
                except (Unavailable, WiringError):
                    if not looked and self._look is not None:
                        looked = True
                        await self._look()
                    if all(self._models[name] == model for name, model in models.items()):
                        _refuse_unknown(models)
                        raise
                    # Another generation serves now, and the one that was read may have been dropped.
                    continue
                if isinstance(result, QueryResult):
                    return result
                lagging = result
            left = deadline - self._world.monotonic()
            paused = self._paused_because(lagging.name)
            if left <= 0 or paused is not None:
                lag = lagging.required - lagging.position
                # Why it is paused is for operators.
                cure = "Send the query again." if paused is None else "It is paused by an operator."
                raise Unavailable(
                    f"The read model '{lagging.name}' is {lag} events behind: it is at {lagging.position}, and the "
                    f"query needs {lagging.required}. {cure}",
                    lag=lag,
                )
            # Followers of other processes set no signal here. Most are a few milliseconds behind.
            await wait_for(moved, min(left, pause), self._world)
            pause = min(2 * pause, _POLL)

    async def _answer(
        self,
        function: QueryFunction,
        asked: ActorQuery,
        read_store: ReadStore,
        models: Mapping[str, ReadModel],
        at_least: Position,
    ) -> QueryResult | Lagging:
        """The answer, or the read model that is too far behind for one."""
        if len(function.views) == len(models) == 1 and function.name not in self._reading_more:
            result = await self._answer_from_one_row(function, asked, read_store, models, at_least)
            if result is not None:
                return result
        async with AsyncExitStack() as opened:
            sources = await self._open(function, read_store, models, opened)
            progress = {name: await snapshot.progress(model) for name, (model, snapshot) in sources.items()}
            for name, now in progress.items():
                self._refuse_forked(sources[name].model.name, now)
            lagging = _lagging(sources, progress, at_least)
            if lagging is not None:
                return lagging
            views: dict[str, View[Any]] = {
                name: View(model, snapshot, parked=progress[name].parked, at_least=at_least)
                for name, (model, snapshot) in sources.items()
            }
            value = await _call(function, asked, views)
            self._monotonic.answered(models)
            lowest = min(progress.values(), key=lambda now: now.position, default=Progress(at_least, "", 0))
            # Two views may be of one read model.
            parked = merged_summary({sources[name].model.name: now.parked for name, now in progress.items()}.values())
            return QueryResult(value, lowest.position, lowest.stamp, parked.first, parked.count)

    async def _answer_from_one_row(
        self,
        function: QueryFunction,
        asked: ActorQuery,
        read_store: ReadStore,
        models: Mapping[str, ReadModel],
        at_least: Position,
    ) -> QueryResult | Lagging | None:
        """The answer if one row by its key is enough for it; None if the function has to be called with a snapshot."""
        ((parameter, name),) = function.views.items()
        view: OneRowView[Any] = OneRowView(models[name], read_store, at_least)
        value = None
        try:
            value = await _call(function, asked, {parameter: view})
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            if self._is_enough(function, name, view):
                raise
        now = view.progress
        if now is not None and self._is_enough(function, name, view):
            self._monotonic.answered(models)
            return QueryResult(value, now.position, now.stamp, now.parked.first, now.parked.count)
        behind = now is not None and now.position < at_least and not self._is_forked(name, now)
        return Lagging(name, now.position, at_least) if now is not None and behind else None

    def _is_enough(self, function: QueryFunction, name: str, view: OneRowView[Any]) -> bool:
        """Whether a function got all it asked for from a view of one row, and the row is new enough."""
        if view.reads_more:
            self._reading_more.add(function.name)
        now = view.progress
        return now is not None and not view.needs_snapshot and not self._is_forked(name, now)

    def _is_forked(self, name: str, now: Progress) -> bool:
        try:
            self._refuse_forked(name, now)
        except Unavailable:
            return True
        return False

    def _refuse_forked(self, name: str, now: Progress) -> None:
        if self._history is not None:
            self._history.refuse(name, now.stamp, now.position)

    async def _open(
        self, function: QueryFunction, read_store: ReadStore, models: Mapping[str, ReadModel], opened: AsyncExitStack
    ) -> dict[str, ViewSource]:
        """What each parameter reads: read models, all in one snapshot, or rows of the write store."""
        by_projection: dict[str, ViewSource] = {}
        if self._log is not None:
            views = await self._log_views.open(function.views.values(), self._log)
            by_projection = {name: ViewSource(view.model, view) for name, view in views.items()}
        if models:
            snapshot = await opened.enter_async_context(read_store.snapshot())
            by_projection |= {name: ViewSource(model, snapshot) for name, model in models.items()}
        return {parameter: by_projection[name] for parameter, name in function.views.items() if name in by_projection}

    async def live(
        self, read_store: ReadStore, asked: ActorQuery, made: Callable[[QueryResult], Any], *, listening: LiveOptions
    ) -> AsyncGenerator[Any]:
        """What is `made` of the result now, and again whenever it changes, until `end_live`.

        It is computed once for all that ask an equal query with the same `listening.render`. The first answer is what
        `answer` gives for `listening.at_least`.
        """
        render = listening.render

        def publish(result: QueryResult, spend: Spend) -> Any:
            return made(result) if render is None else render(made(result), spend)

        async def compute(at_least: Position = 0, timeout: float = _SETTLE) -> Computed:
            result = await self.answer(read_store, asked, at_least, timeout)
            if render is not None:
                result = result._replace(value=msgspec.Raw(_encode(result.value)))
            # Only a hash of an encoded answer is kept to notice a change.
            value = blake2b(result.value).digest() if render is not None else result.value
            state = result._replace(value=value, position=0, stamp="")
            return Computed(state, result.position, result.parked_count > 0, partial(publish, result))

        at_least = listening.at_least
        function = self.function_of(type(asked.query))
        seen_by = None if function.actor is None else asked.actor
        async with self._live.listening(live_key(asked.query, seen_by, render), compute, listening.pause) as feed:
            seen: object = NOTHING_SEEN
            after = 0
            while (published := await feed.next(seen, after)) is not None:
                if at_least and (published.position < at_least or published.parked):
                    own = self.time_limit.within(compute(at_least, listening.timeout), listening.timeout)
                    published = feed.of_listener(await own)
                at_least = 0
                seen, after = published.state, published.number
                yield published.value
                # It must not stay in memory until the next one.
                del published

    async def end_live(self) -> None:
        """End all live queries. Returns when nothing is computed for them any more."""
        await self._live.end()

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
                f"{function.query.__name__}. Keep one, or give one of them another query type."
            )
        if function.name in self.by_name:
            raise WiringError(f"Two queries have the name '{function.name}'. Rename one of the types.")
        self.by_name[function.name] = function


def _refuse_unknown(models: Mapping[str, ReadModel]) -> None:
    """Unavailable where it is not known which generation of a read model serves. Their numbers count up from 1."""
    for name, model in models.items():
        if not model.generation:
            raise Unavailable(
                f"It is not known yet which generation of '{name}' serves. Start a process with the role `sync`, with "
                "the same read store. If it runs, wait until the write store can be reached."
            )


def _lagging(sources: Mapping[str, ViewSource], progress: Mapping[str, Progress], at_least: Position) -> Lagging | None:
    """The read model that is furthest behind `at_least`; None if none is."""
    models = [Lagging(sources[name].model.name, now.position, at_least) for name, now in progress.items()]
    return min((model for model in models if model.position < at_least), key=lambda m: m.position, default=None)


def _check_actor(function: QueryFunction, actor: Actor | None) -> None:
    if actor is None and function.needs_actor:
        raise NotAuthenticated(f"The query '{function.name}' depends on who asks. Log in.")


async def _call(function: QueryFunction, asked: ActorQuery, views: Mapping[str, View[Any]]) -> Any:
    label = f"The query function {function.function.__qualname__}"
    arguments: dict[str, Any] = {**views} if function.actor is None else {**views, function.actor: asked.actor}
    try:
        value = await function.function(asked.query, **arguments)
    except (TwofoldError, SnapshotNeeded, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise failed(label, error) from error
    if function.classes and not isinstance(value, function.classes):
        raise FunctionFailed(label, f"returned {type(value).__name__}, but its hint says {shown(function.returns)}")
    return value
