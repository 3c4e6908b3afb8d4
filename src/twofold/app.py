"""The composition root: the one place where modules, stores and services meet."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from twofold.access import AccessRules, Allow
from twofold.access.authentication import AuthenticateFunction, Authentication, Authenticator, check_login
from twofold.access.internal import check_internal, without_internal
from twofold.assembly import Parts, assemble
from twofold.codec import EventCodec, MessageCodec
from twofold.domain.actor import Actor, actor_of
from twofold.domain.command_ids import refuse_runtime_id
from twofold.domain.envelope import Origin
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.errors import ForkedHistory, Rejected, Unavailable, WiringError
from twofold.online_move import MoveStatus, OnlineMove
from twofold.position_tokens import PositionTokens
from twofold.projections import Projections, names_late
from twofold.query_service.answer import ActorQuery, LiveOptions, QueryResult, QueryService
from twofold.query_service.live_queries import Spend
from twofold.read_store.port import ReadModel
from twofold.receipt import Answer, Receipt
from twofold.role_stores import open_log_for, open_read_models_for
from twofold.roles import ALL_ROLES, Roles
from twofold.runtime import Runtime
from twofold.settings import Settings
from twofold.signal import Signal
from twofold.status import Status, measure
from twofold.telemetry.families import process_families, status_families
from twofold.telemetry.instruments import Family
from twofold.telemetry.recorder import Telemetry, names_of
from twofold.world import RealWorld, World
from twofold.write_store.background_check import check_current_log
from twofold.write_store.current_log import CurrentLog
from twofold.write_store.history import UNCHECKED
from twofold.write_store.inventory import check_log
from twofold.write_store.port import PAGE_BYTES, RowWrite, Slice


class App:
    """Modules, stores and settings put together. WiringError, with the cure, where they do not fit.

    `write_store` and `read_store` are URLs: `memory:`, `sqlite:///relative/path.db`, `sqlite:////absolute/path.db`,
    `postgresql://…`; for the read store also `mongodb://…` and `cassandra://…`. `pages` makes an ASGI application
    from the app, served at `/` beside the HTTP API.

    `authenticate` lists what establishes the actor of a request: `ApiKeys`, `JwtBearer`, or functions of the headers.
    `access` lists what each role may do; all else is denied. Without it everybody may do everything, and the app is
    served on loopback addresses only. Both are for requests; what code does with the app is not limited.
    """

    def __init__(
        self,
        *modules: Module,
        write_store: str | None = None,
        read_store: str | None = None,
        settings: Settings | None = None,
        world: World | None = None,
        pages: Callable[["App"], Any] | None = None,
        authenticate: Sequence[Authenticator | AuthenticateFunction] = (),
        access: Sequence[Allow] | None = None,
    ) -> None:
        chosen = settings or Settings.from_environment()
        given = {
            name: url for name, url in (("write_store", write_store), ("read_store", read_store)) if url is not None
        }
        self.settings = msgspec.structs.replace(chosen, **given)
        self.world: World = world or RealWorld()
        self.pages = pages
        self.wiring = Wiring(modules)
        self.messages = MessageCodec()
        self.events = EventCodec(self.wiring.events.values())
        self.models = {
            name: ReadModel(name, 0, p.row, p.find_by, p.order_by, p.partitions)
            for name, p in self.wiring.projections.items()
            if p.lifecycle == "async"
        }
        functions = [function for module in self.wiring.modules for function in module.queries]
        self._moved = Signal()
        self.queries = QueryService(
            functions,
            self.models,
            self.wiring.projections,
            self.events,
            self.world,
            self._moved,
            self._paused_because,
        )
        by_name = {name: function.query for name, function in self.queries.by_name.items()}
        check_internal(self.wiring.internal, {*self.wiring.commands.values(), *by_name.values()})
        self.public_commands = without_internal(self.wiring.commands, self.wiring.internal)
        self.public_queries = without_internal(by_name, self.wiring.internal)
        self.access = AccessRules(access, self.public_commands, self.public_queries)
        self.authentication = Authentication(authenticate, self.world)
        check_login(self.authentication, self.access)
        asked = {query.query: name for name, query in self.queries.by_name.items()}
        self.telemetry = Telemetry(names_of(self.wiring.commands), asked, self.world)
        self.projections = Projections(lambda: self._open().synchronization, self.wiring)
        self._tokens = PositionTokens(self.world)
        self._running: Runtime | None = None
        self._commands = self._rejected = self._asked = 0
        self._remembered_seconds = int(self.settings.command_retention_days * 86_400)
        self._started = 0.0

    @property
    def roles(self) -> Roles:
        """What this process does. WiringError where the setting names a role that there is not."""
        return Roles(self.settings.roles)

    async def start(self, *, maintenance: Iterable[str] | None = None) -> None:
        """Open the stores, check the log against the modules, start the followers: as the roles of this process say.

        With `maintenance` it runs a maintenance session: it follows these projections and policies as far as no other
        node does, and takes no part in the division of the work among the nodes.
        """
        if self._running is not None:
            raise WiringError("This app is running already. Start it once, or stop it first.")
        # A maintenance session does its task whatever the process beside it does.
        roles = self.roles if maintenance is None else Roles(ALL_ROLES)
        roles.check_stores(self.settings.write_store, self.settings.read_store)
        write_store = await open_log_for(roles, self.settings, self.world)
        try:
            read_store = await open_read_models_for(roles, self.settings, self.world)
        except BaseException:
            await write_store.close()
            raise
        self.telemetry.begin(self.settings.write_store.partition(":")[0], self.settings.trace_share)
        current = CurrentLog(write_store, self.world)
        parts = Parts(
            settings=self.settings,
            roles=roles,
            world=self.world,
            wiring=self.wiring,
            messages=self.messages,
            events=self.events,
            models=self.models,
            moved=self._moved,
            handle=partial(self.telemetry.command, self._handle),
            observer=self.telemetry,
            log_moved=self._log_moved,
        )
        running = assemble(parts, current, read_store, None if maintenance is None else frozenset(maintenance))
        try:
            if roles.handle_commands:
                await check_log(write_store, self.wiring)
            self._started = self.world.monotonic()
            self.queries.begin(current, running.history, running.synchronization.look_again)
            self._running = running
            await running.start()
        except BaseException:
            self._running = None
            await running.stop()
            raise

    async def stop(self) -> None:
        """Finish the commands under way, stop the followers, close the stores."""
        running, self._running = self._running, None
        if running is not None:
            try:
                await self.queries.end_live()
            finally:
                await running.stop()

    async def __aenter__(self) -> "App":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def send(
        self,
        command: Any,
        *,
        command_id: str | None = None,
        actor: Actor | str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        wait_for: Iterable[str] = (),
        wait_seconds: float | None = None,
    ) -> Receipt:
        """Handle a command: its events are durable when the receipt comes. Send it again under the same id at will.

        The receipt comes once the projections and policies of `wait_for` have taken these events, or after
        `wait_seconds` (`Settings.wait_seconds` unless given), and then says which are late.

        Raises Rejected, the Refused family, Conflict and Unavailable; see `twofold.errors` for what to do on each.
        UnknownMessage, and nothing is written, where there is no follower of a name in `wait_for`.
        """
        roles = self._open().roles
        roles.refuse_without("command", "A command")
        followers = list(dict.fromkeys(wait_for))
        for name in followers:
            self.projections.check_waited_for(name)
            roles.refuse_to_wait(name, self.wiring.followers.get(name, ""), self.settings.read_store)
        if command_id:
            refuse_runtime_id(command_id, "command_id")
        else:
            command_id = self.world.new_id()
        origin = Origin(actor_of(actor), correlation_id, causation_id)
        receipt = await self.telemetry.command(self._handle, command, command_id, origin)
        if followers:
            longest = self.settings.wait_seconds if wait_seconds is None else wait_seconds
            late = await names_late(self.projections, followers, receipt.position, longest)
            return msgspec.structs.replace(receipt, late=late)
        return receipt

    async def ask(
        self,
        query: Any,
        *,
        actor: Actor | str | None = None,
        position: str | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Answer a query, at least as new as the `position` token of a receipt where one is given.

        A query function that takes an `Actor` gets `actor`: NotAuthenticated where it needs one and there is none.
        Unavailable, with the lag, if the read models do not come that far within `timeout` seconds; InvalidMessage
        where the token is not one of this log's.
        """
        running = self._open()
        running.roles.refuse_without("query", "A query")
        longest = self.settings.wait_seconds if timeout is None else timeout
        actor_query = ActorQuery(query, actor_of(actor))
        asked = self.telemetry.query(query, self._ask(running, actor_query, position, longest))
        # Without a position there is nothing to wait for, and no timeout.
        result = await (asked if position is None else self.queries.time_limit.within(asked, longest))
        self._asked += 1
        return self._answer(result)

    async def _ask(self, running: Runtime, query: ActorQuery, position: str | None, timeout: float) -> QueryResult:
        if running.write_store.problem is not None:
            # After a disk error reads go on. Where events are lost, read models may hold them: then this raises.
            await running.write_store.read(NO_EVENTS)
        if position is None:
            return await self.queries.answer(running.read_store, query, 0, timeout)
        required = await self._tokens.required(running.write_store, position)
        result = await self.queries.answer(running.read_store, query, required.position, timeout)
        required.refuse_other_history(result.position, result.stamp)
        return result

    async def live(
        self,
        query: Any,
        *,
        actor: Actor | str | None = None,
        position: str | None = None,
        render: Callable[[Answer, Spend], Any] | None = None,
    ) -> AsyncGenerator[Any]:
        """The answer to a query, and again whenever it has become another. Ends when the app stops.

        The first one is as `ask` answers with `position`. All who ask equal queries get the same `Answer`, computed
        once (for each actor, where the query function takes one): do not change it. If computing takes long, some
        answers in between are left out. With `render` the value is JSON, and what `render` makes of the answer, once
        for all, is what comes. It also gets a function to be called with the seconds of the event loop that sending
        took.
        """
        running = self._open()
        running.roles.refuse_without("query", "A query")
        at_least = 0 if position is None else await self.position_of(position)
        listening = LiveOptions(self.settings.poll_seconds, render, at_least, self.settings.wait_seconds)
        asked = ActorQuery(query, actor_of(actor))
        async with aclosing(self.queries.live(running.read_store, asked, self._answer, listening=listening)) as answers:
            async for published in answers:
                yield published
                # It must not stay in memory until the next one.
                del published

    async def log(
        self, query: EventQuery = ALL_EVENTS, after: Position = 0, limit: int = 100, size: int = PAGE_BYTES
    ) -> Slice:
        """Recorded events after a position, and the head: at most `limit`, and about `size` bytes (one event at least).

        `upto` of the result says where to go on.
        """
        return await self._open().write_store.read(query, after, limit, size)

    async def wait(self, after: Position) -> None:
        """Return when there may be events after a position, at the latest after `Settings.poll_seconds`."""
        await self._open().write_store.wait(after, self.settings.poll_seconds)

    async def follow(self, query: EventQuery = ALL_EVENTS, after: Position = 0) -> AsyncIterator[RecordedEvent]:
        """Recorded events in order, those to come included. Ends when the app stops."""
        running = self._open()
        while self._running is running:
            page = await running.write_store.read(query, after, self.settings.page_events)
            for event in page.events:
                yield event
            if page.upto <= after:
                await running.write_store.wait(after, self.settings.poll_seconds)
            after = max(after, page.upto)

    async def verify_forever(self) -> None:
        """Check the log for damage in the background, `Settings.verify_events_per_second`, until this is cancelled.

        `serve` does it. Damage found is in the health report, and what touches it is Unavailable. Returns at once where
        the log is in memory, the setting is 0, or this process decides no commands.
        """
        rate = self.settings.verify_events_per_second
        if rate and self.roles.handle_commands:
            await check_current_log(self._open().write_store, self.world, rate)

    async def move_to(self, write_store: str) -> MoveStatus:
        """Move the log to another write store, an empty one, and go on there. Commands wait for a moment at the end.

        What was copied before is continued. WiringError where it cannot be moved there, Conflict while it is moved
        elsewhere, Unavailable where a store cannot be reached; then the app uses its log as before. If the caller is
        cancelled, the move goes on.
        """
        return await self.move.run(write_store)

    @property
    def move(self) -> OnlineMove:
        """The move of the log of the running app: begun without waiting for its end, and how far it is."""
        return self._open().move

    async def _log_moved(self, write_store: str) -> None:
        self.settings = msgspec.structs.replace(self.settings, write_store=write_store)
        await self._open().synchronization.log_replaced()

    async def status(self) -> Status:
        """How the app is doing, measured from the log and the checkpoints.

        A store that cannot be read is part of the report: Unavailable only where the app does not run.
        """
        running = self._open()
        objectives = {name: each.freshness for name, each in self.wiring.projections.items()}
        measured = await measure(running, self.world, objectives, self.settings)
        return Status(
            log=running.write_store.identity.log,
            node=self.world.place,
            head=measured.head,
            commands=self._commands,
            rejected=self._rejected,
            queries=self._asked,
            uptime=self.world.monotonic() - self._started,
            health=measured.health,
            followers=measured.followers,
            builds=measured.builds,
        )

    async def metrics(self, status: Status | None = None) -> list[Family]:
        """All metrics of this process at this moment: those of `status`, and what it counts."""
        families = status_families(status or await self.status())
        return [*families, *await process_families(self.telemetry, self._open())]

    def token(self, position: Position, digest: str = UNCHECKED) -> str:
        """A position as callers carry it: opaque, and good for this log only.

        With the digest of the chain at the position, it is refused where the log has another history by then.
        """
        return f"{self._open().write_store.identity.stamp(digest)}.{position}"

    async def _handle(self, command: Any, command_id: str, origin: Origin, rows: Sequence[RowWrite] = ()) -> Receipt:
        running = self._open()
        if running.history.problem is not None:
            raise ForkedHistory(running.history.problem)
        try:
            written = await running.commands.handle(command, command_id, origin, rows)
        except Rejected:
            self._rejected += 1
            raise
        self._commands += 1
        return Receipt(
            command_id,
            written.position,
            f"{running.write_store.identity.stamp(written.digest)}.{written.position}",
            [f"{command_id}.{i}" for i in range(written.count)],
            repeated=written.repeated,
            remembered_seconds=None if written.repeated else self._remembered_seconds,
        )

    def _paused_because(self, name: str) -> str | None:
        """Why a follower is paused, in a sentence; None if it is not."""
        return None if self._running is None else self._running.synchronization.paused_because(name)

    def _answer(self, result: QueryResult) -> Answer:
        value, position, stamp, parked, parked_count = result
        token = f"{stamp}.{position}" if stamp else self.token(position)
        return Answer(value, position, token, list(parked), parked_count)

    async def position_of(self, token: str, field: str = "position") -> Position:
        """The position in a token. InvalidMessage, with the name of the field, where this log does not hold it."""
        return await self._tokens.position_of(self._open().write_store, token, field)

    def _open(self) -> Runtime:
        if self._running is None:
            raise Unavailable("The app is not running. Start it with `async with app:` or `twofold serve`.")
        return self._running
