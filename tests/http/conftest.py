"""Servers for the tests: a real one in another process, and the application without a server."""

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.http.bank_server import SHORT, open_bank
from tests.http.raw_http_helpers import Address
from twofold import App
from twofold.http import Api, asgi

ROOT = Path(__file__).parents[2]


class Server:
    """A bank in another process."""

    def __init__(self, *options: str) -> None:
        # Not a pipe: one that nobody reads fills up with tracebacks, and the server would wait for ever.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed when the server has ended
        self._said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.http.bank_server", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 60)
        self.url = self.process.stdout.readline().strip() if readable else ""
        if not self.url:
            self.process.kill()
            raise RuntimeError(f"the bank did not start: {self._ended()}")

    @property
    def address(self) -> Address:
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    def has_open(self, client: Address) -> bool:
        """Whether the process of the server still has its side of the connection of a client open. Linux tells."""
        wanted = (_in_hexadecimal(self.address), _in_hexadecimal(client))
        lines = [line.split() for line in Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{line[9]}]" for line in lines if (line[1], line[2]) == wanted}
        return any(_target(link) in sockets for link in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def stop(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        errors = self._ended()
        return self.process.returncode, errors

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self._ended()

    def _ended(self) -> str:
        """What it said on stderr, once it has ended."""
        self.process.communicate(timeout=60)
        if not self._errors.closed:
            with self._errors as errors:
                errors.seek(0)
                self._said = errors.read()
        return self._said


def _in_hexadecimal(address: Address) -> str:
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One bank for all tests that can share it."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts banks for one test."""
    started: list[Server] = []

    def start_one(*options: str) -> Server:
        started.append(Server(*options))
        return started[-1]

    yield start_one
    for server in started:
        server.kill()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of the bank over a real connection."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """A running bank in this process."""
    async with open_bank() as app:
        yield app


@pytest.fixture
async def api(app: App) -> Api:
    """The bank's application, without a server."""
    return asgi(app, limits=SHORT)


@pytest.fixture
async def inside(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `api`."""
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client
