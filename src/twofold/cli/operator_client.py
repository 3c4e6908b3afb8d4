"""Clients that perform operator actions: through a running `serve`, or in a maintenance session of this process."""

import asyncio
import getpass
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, Protocol
from urllib.parse import quote

import msgspec

from twofold.app import App
from twofold.cli.remote import Remote
from twofold.cli.store_access import refuse_memory_stores
from twofold.domain.events import Position
from twofold.errors import InvalidMessage, WiringError
from twofold.health import BuildStatus, FollowerStatus
from twofold.read_store.port import Parked
from twofold.stores import announced_address
from twofold.world import RealWorld, World

PATIENCE = 30.0
"""Seconds an action may take before it fails."""


_FIELDS = {"split": "partition", "merge": "partition", "pause": "reason", "resume": "skip"}


class ActionRequest(msgspec.Struct, frozen=True):
    """The action `what` on the projection or policy `name`. Its `subject` is a key or a partition.

    For "pause" it is the reason, for "resume" the position of the event to leave out. `position` is where a key that is
    to be skipped is parked; None if that does not matter.
    """

    what: Literal["retry", "skip", "repair", "split", "merge", "pause", "resume"]
    name: str
    subject: str | int | None
    position: Position | None = None

    @property
    def details(self) -> dict[str, Position]:
        """What there is beside the subject, by name."""
        return {} if self.position is None else {"position": self.position}

    @property
    def field(self) -> str:
        """The kind of the subject."""
        return _FIELDS.get(self.what, "key")


class ActionResult(msgspec.Struct, frozen=True):
    """The result of an action. `parked` says where and why the key is still parked, or parked again."""

    what: str
    name: str
    subject: str | int | None
    outcome: str
    position: Position
    parked: str | None = None


class OperatorStatus(msgspec.Struct, frozen=True):
    """The log, its head, the followers and the generations that do not serve, at one moment.

    `parked` says where and why the key that was asked for is parked, if it is.
    """

    log: str
    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]
    parked: Parked | None = None

    def serving(self, name: str) -> int | None:
        """The generation of a projection that serves."""
        projections = (follower for follower in self.followers if follower.kind == "projection")
        return next((follower.generation for follower in projections if follower.name == name), None)

    def build(self, name: str, state: str) -> BuildStatus | None:
        """The generation of a projection that is in this state, if there is one."""
        return next((build for build in self.builds if (build.name, build.state) == (name, state)), None)


class OperatorClient(Protocol):
    """Performs operator actions. Raises what `App.projections` raises."""

    world: World

    async def status(self, name: str = "", key: str = "") -> OperatorStatus:
        """The present state of all followers; and of one parked key of a projection or policy."""
        ...

    async def act(self, request: ActionRequest) -> ActionResult:
        """Perform one action. InvalidMessage where it cannot be done."""
        ...

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        """Start or resume builds. The numbers of the generations by name."""
        ...

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        """Let this generation serve; its number. GenerationChanged where another one is being built."""
        ...

    async def switch_back(self, name: str) -> int:
        """Let the standby generation serve again; its number."""
        ...

    async def drop(self, name: str) -> list[int]:
        """Drop the generations that do not serve; their numbers."""
        ...


class LocalClient:
    """Acts in this process, with the stores open, or asks the node that has the lease."""

    def __init__(self, app: App) -> None:
        self.world = app.world
        self._app = app
        self._projections = app.projections

    async def status(self, name: str = "", key: str = "") -> OperatorStatus:
        status = msgspec.convert(await self._app.status(), OperatorStatus, from_attributes=True)
        parked = [each for each in await self._projections.parked(name) if each.key == key] if name else []
        return msgspec.structs.replace(status, parked=next(iter(parked), None))

    async def act(self, request: ActionRequest) -> ActionResult:
        do = getattr(self._projections, request.what)
        action = await do(request.name, request.subject, **request.details, actor=_current_user(), timeout=PATIENCE)
        if not action.done:
            raise InvalidMessage(action.outcome, field=request.field)
        return ActionResult(request.what, request.name, request.subject, action.outcome, action.position)

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        return await self._projections.rebuild(names, actor=_current_user())

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        return await self._projections.switch(name, generation=generation, force=force, actor=_current_user())

    async def switch_back(self, name: str) -> int:
        return await self._projections.switch_back(name, actor=_current_user())

    async def drop(self, name: str) -> list[int]:
        return await self._projections.drop(name, actor=_current_user())


class HttpClient:
    """Sends actions to the `serve` that runs at a URL."""

    def __init__(self, url: str) -> None:
        self.world: World = RealWorld()
        self._server = Remote(url)

    async def status(self, name: str = "", key: str = "") -> OperatorStatus:
        status = msgspec.convert(self._server.get("/status"), OperatorStatus)
        path = f"{_path(name, 'parked')}?key={quote(key, safe='')}"
        parked = msgspec.convert(self._server.get(path)["parked"], list[Parked]) if name else []
        return msgspec.structs.replace(status, parked=next(iter(parked), None))

    async def act(self, request: ActionRequest) -> ActionResult:
        # In a thread: an audit sends several at once, and each takes as long as the node that performs it.
        path = _path(request.name, request.what)
        action = await asyncio.to_thread(self._server.post, path, {request.field: request.subject, **request.details})
        return ActionResult(request.what, request.name, request.subject, action["outcome"], action["position"])

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        return dict(self._server.post("/projections/rebuild", {"names": list(names)})["generations"])

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        body = {"generation": generation, "force": force}
        return int(self._server.post(_path(name, "switch"), body)["generation"])

    async def switch_back(self, name: str) -> int:
        return int(self._server.post(_path(name, "switch-back"))["generation"])

    async def drop(self, name: str) -> list[int]:
        return list(self._server.post(_path(name, "drop"))["generations"])


@asynccontextmanager
async def operator_client(app: App | None, names: Sequence[str], url: str | None) -> AsyncGenerator[OperatorClient]:
    """The `serve` at `url`, or a maintenance session: `app`, started here until the context ends.

    In the session this process follows the projections and policies `names`, where no other node does. WiringError
    where another process holds a SQLite file, which has one writer.
    """
    if url is not None:
        yield HttpClient(url)
        return
    assert app is not None
    refuse_memory_stores(app.settings)
    try:
        await app.start(maintenance=names)
    except WiringError as error:
        if isinstance(error.__cause__, BlockingIOError):
            stores = (app.settings.write_store, app.settings.read_store)
            address = next(filter(None, map(announced_address, stores)), None)
            server = f"Let that `twofold serve` do it: add --url {address}."
            raise WiringError(
                f"{error} {server if address else 'If it is a `twofold serve`, add --url with its address.'}"
            ) from error
        raise
    try:
        yield LocalClient(app)
    finally:
        await app.stop()


def _path(name: str, action: str) -> str:
    return f"/projections/{quote(name, safe='')}/{action}"


def _current_user() -> str | None:
    """The user who runs this command, for the record; None where the system does not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None
