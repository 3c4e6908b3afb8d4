"""Servers for the tests: a real one in another process, and the application without a server."""

import select
import signal
import subprocess
import sys
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
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.http.bank_server", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 60)
        self.url = self.process.stdout.readline().strip() if readable else ""
        if not self.url:
            self.process.kill()
            raise RuntimeError(f"the bank did not start: {self.process.communicate()[1]}")

    @property
    def address(self) -> Address:
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    def stop(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


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
        server.process.kill()
        server.process.communicate()


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
