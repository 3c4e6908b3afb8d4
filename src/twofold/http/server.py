"""In charge of a process that serves an app: its address, its signals, a stop that leaves nobody without an answer."""

import asyncio
import gc
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from twofold.app import App
from twofold.errors import WiringError
from twofold.http import asgi
from twofold.http.connection import connection_with
from twofold.http.limits import Limits
from twofold.http.routes import Api
from twofold.http.security import Trust, is_loopback

Started = Callable[[str], None]
"""Called once with the address of the server, `http://127.0.0.1:8000`, when it answers."""


async def serve(
    app: App,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    expose: bool = False,
    mounts: Mapping[str, ASGIApp] | None = None,
    limits: Limits | None = None,
    trust: Trust | None = None,
    notice_seconds: float = 0.0,
    started: Started | None = None,
) -> None:
    """Start `app`, serve it until SIGTERM or SIGINT, and stop it again.

    On the signal readiness turns 503 and streams end; after `notice_seconds` (time for a load balancer to look away) no
    connection is taken any more, requests under way finish, and the app stops. A second signal does not wait.
    WiringError where the address is taken, or is open to others without `expose`. `port` 0 takes a free one.
    """
    limits = limits or Limits()
    api = asgi(app, mounts, limits=limits, trust=trust)
    listener = listen(host, port, expose=expose)
    try:
        async with app:
            config = uvicorn.Config(
                api,
                http=connection_with(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # Until then every request under way has met its own deadline.
                timeout_graceful_shutdown=int(limits.body_seconds + limits.request_seconds) + 1,
            )
            server = _Server(config, api, notice_seconds, started)
            await server.serve(sockets=[listener])
    finally:
        listener.close()


def run(
    app: App,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    expose: bool = False,
    mounts: Mapping[str, ASGIApp] | None = None,
    limits: Limits | None = None,
    trust: Trust | None = None,
    notice_seconds: float = 0.0,
    started: Started | None = None,
) -> None:
    """`serve`, on the fastest event loop there is here. Returns when the server has stopped."""
    with resting_modules(), fast_runner() as runner:
        runner.run(
            serve(
                app,
                host=host,
                port=port,
                expose=expose,
                mounts=mounts,
                limits=limits,
                trust=trust,
                notice_seconds=notice_seconds,
                started=started,
            )
        )


@contextmanager
def resting_modules() -> Generator[None]:
    """Keep what is imported by now out of the garbage collector's way: it is there for good.

    Else each full collection walks through all of it, for a tenth of a second in an app with large libraries, and
    commands and answers wait that long.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def fast_runner() -> asyncio.Runner:
    """A runner on the fastest event loop there is here."""
    return asyncio.Runner(loop_factory=uvicorn.Config(app="", loop="auto", log_config=None).get_loop_factory())


def listen(host: str, port: int, *, expose: bool = False) -> socket.socket:
    """A socket on an address. WiringError, with the cure, where it is taken, unknown, or open to others unasked."""
    if not expose and not is_loopback(host):
        raise WiringError(
            f"{host} can be reached from other machines, and there is no authentication yet: whoever reaches it may do "
            "everything. Bind to 127.0.0.1, or say expose=True (`--expose`) behind a proxy that checks who asks."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise WiringError(f"There is no address '{host}' here ({error.strerror}). Use 127.0.0.1.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise WiringError(
            f"Port {port} of {host} cannot be had ({error.strerror}). Stop what uses it, or choose another port."
        ) from error
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """Uvicorn's, with a stop in the order that `serve` promises, after which the process goes on."""

    def __init__(self, config: uvicorn.Config, api: Api, notice: float, started: Started | None) -> None:
        super().__init__(config)
        self._api = api
        self._notice = notice
        self._tell = started
        self._loop = asyncio.get_running_loop()
        self._stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._tell is not None and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._tell(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Runs as a signal handler, anywhere in the loop's own code.
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
