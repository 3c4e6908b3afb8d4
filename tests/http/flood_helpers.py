"""A server in a process of its own, floods of it, what memory it takes meanwhile, and whether it still answers."""

import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.http.large_events_server import Write, open_documents
from tests.http.raw_http_helpers import Address

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 300_000_000
SLOWEST_ANSWER = 10.0
"""Seconds. Without a limit one page of large events blocked a server for 40."""


class Flooded:
    """A server in another process, and a caller that sends it commands, queries and health checks all the time."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.answers = 0
        self.slowest = 0.0
        self.failures: list[str] = []
        self._done = threading.Event()
        self._caller = threading.Thread(target=self._call)

    @property
    def address(self) -> Address:
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    def peak(self) -> int:
        """The most resident memory that the process has had, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise LookupError("VmHWM")

    def asks(self) -> None:
        self._caller.start()

    def answered(self, more: int) -> None:
        """Wait for so many more answers."""
        goal, deadline = self.answers + more, time.monotonic() + 120
        while self.answers < goal and not self.failures and self._caller.is_alive():
            assert time.monotonic() < deadline, f"{self.answers} of {goal} answers"
            time.sleep(0.01)

    def check(self) -> None:
        """Memory stayed within the limit, and everything was answered meanwhile."""
        self.answered(30)
        self._done.set()
        self._caller.join()
        peak = self.peak()
        sys.stderr.write(f"\npeak {peak / 1e6:.0f} MB, {self.answers} answers, slowest {self.slowest:.3f} s\n")
        assert self.failures == []
        assert self.slowest < SLOWEST_ANSWER
        assert peak < MOST_MEMORY

    def stop(self) -> None:
        self._done.set()
        if self._caller.is_alive():
            self._caller.join()

    def _call(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self._done.is_set():
                for ask in (
                    lambda: http.post("/commands/write", json={"document_id": "asked", "text": "small"}),
                    lambda: http.get("/queries/documents"),
                    lambda: http.get("/health/live"),
                ):
                    begun = time.monotonic()
                    try:
                        answer = ask()
                    except httpx.HTTPError as error:
                        self.failures.append(repr(error))
                        return
                    if answer.status_code != 200:
                        self.failures.append(answer.text)
                        return
                    self.slowest = max(self.slowest, time.monotonic() - begun)
                    self.answers += 1


async def fill(folder: Path, events: int, size: int) -> None:
    """A log of large events."""
    async with open_documents(folder) as app:
        for number in range(events):
            await app.send(Write(f"d-{number}", "x" * size))


@contextmanager
def serving_documents(folder: Path, *arguments: str) -> Iterator[Flooded]:
    """A server over the log in a folder, which is asked something all the time."""
    command = [sys.executable, "-m", "tests.http.large_events_server", str(folder), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], 60)
            url = process.stdout.readline().strip() if readable else ""
            assert url, "the server did not start"
            flooded = Flooded(process, url)
            flooded.asks()
            try:
                flooded.answered(3)
                yield flooded
            finally:
                flooded.stop()
        finally:
            process.kill()


def connected(address: Address, count: int, sent: bytes, *, buffer: int | None = None) -> list[socket.socket]:
    """Connections that have sent something and read nothing."""
    connections: list[socket.socket] = []
    for _ in range(count):
        connection = socket.socket()
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(60)
        connection.connect(address)
        try:
            connection.sendall(sent)
        except OSError:
            connection.close()
            continue
        connections.append(connection)
    return connections


def closed(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()
