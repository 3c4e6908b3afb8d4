"""In charge of who does what `twofold rebuild` wants: a `serve` that is asked, or this process on a visit."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

import msgspec

from twofold.app import App
from twofold.cli.maintenance import visiting
from twofold.cli.operator_actions import who
from twofold.cli.remote import Remote, remote
from twofold.domain.events import Position
from twofold.synchronization.follower import BuildStatus, FollowerStatus
from twofold.world import RealWorld, World


class Seen(msgspec.Struct, frozen=True):
    """One look: the log and its head, which generation serves of each projection, and those that do not serve."""

    log: str
    head: Position
    serving: dict[str, int]
    builds: list[BuildStatus]

    def build(self, name: str, state: str) -> BuildStatus | None:
        """The generation of a projection in a state, if there is one."""
        return next((each for each in self.builds if (each.name, each.state) == (name, state)), None)


class By(Protocol):
    """Whoever rebuilds. Raises what `App.projections` raises."""

    world: World

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        """Begin, or go on. The numbers of the generations by name."""
        ...

    async def look(self) -> Seen:
        """How far everything is now."""
        ...

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        """Let the build with this number serve; its number. Conflict where another one is under way."""
        ...

    async def back(self, name: str) -> int:
        """Let the one before serve."""
        ...

    async def drop(self, name: str) -> list[int]:
        """Give up what serves nobody."""
        ...


class _Status(msgspec.Struct, frozen=True):
    """What `GET /status` says, as far as it matters here."""

    log: str
    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]


class _Visit:
    """This process, with the stores open."""

    def __init__(self, app: App) -> None:
        self.world = app.world
        self._app = app

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        return await self._app.projections.rebuild(names, actor=who())

    async def look(self) -> Seen:
        status = await self._app.status()
        return Seen(status.log, status.head, _serving(status.followers), status.builds)

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        return await self._app.projections.switch(name, generation=generation, force=force, actor=who())

    async def back(self, name: str) -> int:
        return await self._app.projections.switch_back(name, actor=who())

    async def drop(self, name: str) -> list[int]:
        return await self._app.projections.drop(name, actor=who())


class _Asked:
    """A running `serve`."""

    def __init__(self, there: Remote) -> None:
        self.world: World = RealWorld()
        self._there = there

    async def rebuild(self, names: Sequence[str]) -> dict[str, int]:
        return dict(self._there.post("/projections/rebuild", {"names": list(names)})["generations"])

    async def look(self) -> Seen:
        status = msgspec.convert(self._there.get("/status"), _Status)
        return Seen(status.log, status.head, _serving(status.followers), status.builds)

    async def switch(self, name: str, *, generation: int, force: bool) -> int:
        wanted = {"generation": generation, "force": force}
        return int(self._there.post(f"{_place(name)}/switch", wanted)["generation"])

    async def back(self, name: str) -> int:
        return int(self._there.post(f"{_place(name)}/switch-back")["generation"])

    async def drop(self, name: str) -> list[int]:
        return list(self._there.post(f"{_place(name)}/drop")["generations"])


def asked(url: str) -> By:
    """The `serve` that runs at a URL."""
    return _Asked(remote(url))


@asynccontextmanager
async def visited(app: App, names: Sequence[str]) -> AsyncGenerator[By]:
    """This process, on a visit to the stores of an app."""
    async with visiting(app, names):
        yield _Visit(app)


def _serving(followers: Sequence[FollowerStatus]) -> dict[str, int]:
    return {each.name: each.generation for each in followers if each.kind == "projection"}


def _place(name: str) -> str:
    return f"/projections/{quote(name, safe='')}"
