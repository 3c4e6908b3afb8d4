"""A process that serves an app: its address, its signals, and a stop that lets requests in progress finish."""

import asyncio
import errno
import gc
import socket
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from starlette.types import ASGIApp

from twofold.app import App
from twofold.errors import WiringError
from twofold.http import asgi
from twofold.http.api import Api
from twofold.http.connection import connection_with
from twofold.http.limits import Limits
from twofold.http.metrics import families_now
from twofold.http.open_files import connections_that_fit
from twofold.http.security import Trust, is_loopback
from twofold.stores import announce_address
from twofold.telemetry.export import open_export

_BACKLOG = 128
"""Connections that may wait to be accepted: all of them are accepted at once, beyond the limit of connections."""

Started = Callable[[str], None]
"""Called once with the address of the server, `http://127.0.0.1:8000`, when it accepts requests."""


async def serve(
    app: App,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    mounts: Mapping[str, ASGIApp] | None = None,
    limits: Limits | None = None,
    trust: Trust | None = None,
    root_path: str = "",
    access_log: bool = False,
    notice_seconds: float = 0.0,
    started: Started | None = None,
) -> None:
    """Start `app`, serve it until SIGTERM or SIGINT, and stop it again.

    On the signal readiness turns 503 and streams end. After `notice_seconds` (time for a load balancer to notice) the
    server accepts no more connections, requests in progress finish, and the app stops. A second signal does not wait.
    WiringError where the address is in use, or can be reached from other machines and the app has not an access rule
    for each command and query, or `trust` names no hosts. `port` 0 takes a free one.
    """
    trust = trust or Trust()
    limits = limits or Limits()
    limits = msgspec.structs.replace(limits, connections=connections_that_fit(limits.connections))
    api = asgi(app, mounts, limits=limits, trust=trust, root_path=root_path, access_log=access_log)
    listener = listen(host, port, lambda address: _refuse_unguarded(app, trust, address))

    tasks: list[asyncio.Task[None]] = []

    def announce(address: str) -> None:
        # Commands on this machine name it when they find the stores in use.
        for url in (app.settings.write_store, app.settings.read_store):
            announce_address(url, address)
        tasks.append(asyncio.create_task(_announce_moves(app, address), name="twofold-announce"))
        if started is not None:
            started(address)

    export = open_export(app.world)
    try:
        async with app:
            if export is not None:
                pushing = export.push(lambda: families_now(api.wire))
                tasks.append(asyncio.create_task(pushing, name="twofold-metrics"))
            config = uvicorn.Config(
                api,
                http=connection_with(limits),
                ws="none",
                lifespan="off",
                backlog=_BACKLOG,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # By then every request in progress has reached its own deadline.
                timeout_graceful_shutdown=int(limits.body_seconds + limits.request_seconds) + 1,
            )
            tasks.append(asyncio.create_task(app.verify_forever(), name="twofold-verify"))
            try:
                await _Server(config, api, notice_seconds, announce).serve(sockets=[listener])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
    finally:
        listener.close()
        if export is not None:
            await export.close()


async def _announce_moves(app: App, address: str) -> None:
    """Announce the address for each write store to which the log is moved, until this is cancelled."""
    while True:
        await app.move.replaced.wait()
        status = app.move.status
        assert status is not None
        announce_address(status.place, address)


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Run `serve(…)` on the fastest event loop that is installed. Returns when the server has stopped."""
    with resting_modules(), fast_runner() as runner:
        runner.run(serving)


@contextmanager
def resting_modules() -> Generator[None]:
    """Exclude from garbage collection what is imported by now: it is never freed.

    Otherwise each full collection scans all of it, for a tenth of a second in an app with large libraries, and commands
    and answers wait that long.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def fast_runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvicorn.Config(app="", loop="auto", log_config=None).get_loop_factory())


def listen(host: str, port: int, refuse: Callable[[str], None]) -> socket.socket:
    """A socket on an address. WiringError, with the cure, if it is in use or unknown.

    `refuse` is called, with words that name the address, where other machines can reach it; it raises if they must not.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise WiringError(f"This machine has no address '{host}' ({error.strerror}). Use 127.0.0.1.") from error
    for reached in dict.fromkeys(str(each[4][0]) for each in found):
        # A name says nothing about who reaches it.
        if not is_loopback(reached):
            refuse(host if host == reached else f"{host} is {reached}, which")
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        problem = f"Cannot listen on port {port} of {host} ({error.strerror}). Choose another port or address."
        if error.errno == errno.EADDRINUSE:
            problem = f"Port {port} on {host} is in use. Stop the process that uses it, or choose another port."
        raise WiringError(problem) from error
    listener.setblocking(False)
    return listener


def _refuse_unguarded(app: App, trust: Trust, address: str) -> None:
    """WiringError where an app that other machines reach lets everybody do everything, or answers to any name."""
    reached = f"{address} can be reached from other machines"
    if app.access.is_open:
        raise WiringError(
            f"{reached}, and the app has no access rules: every client may do everything. Bind to 127.0.0.1, or say "
            "who may do what: App(…, authenticate=[…], access=[Allow(…), …])."
        )
    if uncovered := app.access.uncovered:
        more = f" and {len(uncovered) - 5} more" if len(uncovered) > 5 else ""
        raise WiringError(
            f"{reached}, and no access rule names {', '.join(uncovered[:5])}{more}. Allow each to a role, or list it "
            "as internal=[…] in its module."
        )
    if not trust.hosts:
        raise WiringError(
            f"{reached}. Name its hosts, or a page of any site could reach it by a name of its own (DNS rebinding): "
            "`--allow-host shop.example` for each name that clients use, or trust=Trust(hosts=…)."
        )


class _Server(uvicorn.Server):
    """Uvicorn's server, with a stop in the order that `serve` promises, after which the process goes on."""

    def __init__(self, config: uvicorn.Config, api: Api, notice: float, started: Started) -> None:
        super().__init__(config)
        self._api = api
        self._notice = notice
        self._started = started
        self._loop = asyncio.get_running_loop()
        self._stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:
            host, port = sockets[0].getsockname()[:2]
            self._started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Runs as a signal handler, at any point of the loop's own code.
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._stopping:
            self.force_exit = self.should_exit = True
            return
        self._stopping = True
        self._api.drain()
        if self._notice > 0:
            self._loop.call_later(self._notice, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        self.should_exit = True
