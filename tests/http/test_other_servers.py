"""Under other ASGI servers open streams end on SIGTERM and Ctrl-C, so that the process can stop."""

import asyncio
import functools
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.http.conftest import ROOT
from tests.servers.server import free_port
from twofold.http.stop_signals import StopSignals

BIN = Path(sys.executable).parent
SERVERS = {
    "uvicorn": ["uvicorn", "{app}", "--port", "{port}"],
    "uvicorn-asyncio": ["uvicorn", "{app}", "--port", "{port}", "--loop", "asyncio"],
    # Worker processes of hypercorn get no signal: it cuts their streams off after its graceful timeout.
    "hypercorn": ["hypercorn", "{app}", "--bind", "127.0.0.1:{port}", "--workers", "0"],
    "granian": ["granian", "--interface", "asgi", "{app}", "--port", "{port}"],
}
"""Commands that serve one of the apps with other ASGI servers."""
STREAMS = ("/events", "/queries/balances", "/status")
Launch = Callable[[str, str], tuple[subprocess.Popen[bytes], int]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts a server for one of the apps."""
    started: list[subprocess.Popen[bytes]] = []

    def start(server: str, app: str) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        words = [word.format(app=f"tests.http.other_servers_apps:{app}", port=port) for word in SERVERS[server]]
        command = [BIN / words[0], *words[1:]]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=30).close()
            except OSError:
                time.sleep(0.05)
            else:
                return process, port
        raise RuntimeError(f"{server} has ended with {process.returncode}")

    yield start
    for process in started:
        process.kill()
        process.wait()


def stream(port: int, path: str) -> socket.socket:
    """A stream whose first event has arrived, or at least its head."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=90)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
    assert b" 200" in connection.recv(4096)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that arrives until the server closes the connection."""
    with connection:
        pieces: list[bytes] = []
        while piece := connection.recv(65_536):
            pieces.append(piece)
        return b"".join(pieces)


@pytest.mark.parametrize("app", ["alone", "mounted"])
@pytest.mark.parametrize("server", SERVERS)
def test_open_streams_end_on_sigterm_and_the_process_stops(server: str, app: str, launch: Launch) -> None:
    process, port = launch(server, app)
    streams = [stream(port, path) for path in STREAMS]
    process.send_signal(signal.SIGTERM)
    for each in streams:
        # The last piece of a chunked answer: the application has ended it, and the server has not cut it.
        assert rest(each).endswith(b"0\r\n\r\n")
    process.wait(60)


def test_open_streams_end_on_ctrl_c(launch: Launch) -> None:
    process, port = launch("uvicorn", "alone")
    streams = [stream(port, path) for path in STREAMS]
    process.send_signal(signal.SIGINT)
    assert all(rest(each).endswith(b"0\r\n\r\n") for each in streams)
    process.wait(60)


@pytest.fixture
def sigterm() -> Iterator[list[str]]:
    """What a server's own handler of SIGTERM has noted, while there is one."""
    noted: list[str] = []

    def handler(number: int, frame: FrameType | None) -> None:
        noted.append("server")

    before = signal.signal(signal.SIGTERM, handler)
    yield noted
    signal.signal(signal.SIGTERM, before)


async def test_the_handler_of_the_server_is_called_too_and_once(sigterm: list[str]) -> None:
    stopped = [asyncio.Event(), asyncio.Event()]
    watching = [StopSignals(each.set) for each in stopped]
    for each in [*watching, *watching]:
        each.watch()
    signal.raise_signal(signal.SIGTERM)
    assert sigterm == ["server"]
    for event in stopped:
        await event.wait()


async def test_a_handler_that_stops_no_server_is_left_alone() -> None:
    runner = asyncio.Runner()
    interrupts = (signal.default_int_handler, functools.partial(runner._on_sigint, main_task=None))  # type: ignore[attr-defined]
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in interrupts:
            signal.signal(signal.SIGINT, handler)
            StopSignals(lambda: None).watch()
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_outside_of_the_main_thread_nothing_is_changed(sigterm: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def watch() -> None:
        StopSignals(lambda: None).watch()

    await asyncio.to_thread(asyncio.run, watch())
    assert signal.getsignal(signal.SIGTERM) is before
