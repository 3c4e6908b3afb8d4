"""Speak HTTP by hand: bytes out, bytes back, and how the connection ended."""

import socket
import time
from typing import NamedTuple

Address = tuple[str, int]

PATIENCE = 30.0


class Received(NamedTuple):
    """What came back, and whether the other side closed the connection."""

    data: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        """The status of each answer in what came back."""
        parts = self.data.split(b"HTTP/1.1 ")[1:]
        return [int(part[:3]) for part in parts]


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE)


def listen(connection: socket.socket, until: bytes | None = None, patience: float = PATIENCE) -> Received:
    """What comes back until it says `until`, or until the other side closes."""
    received = b""
    deadline = time.monotonic() + patience
    while until is None or until not in received:
        left = deadline - time.monotonic()
        if left <= 0:
            return Received(received, closed=False)
        connection.settimeout(left)
        try:
            part = connection.recv(65536)
        except TimeoutError:
            return Received(received, closed=False)
        except ConnectionResetError:
            return Received(received, closed=True)
        if not part:
            return Received(received, closed=True)
        received += part
    return Received(received, closed=False)


def say(address: Address, sent: bytes, *, half_close: bool = False) -> Received:
    """Send bytes on a connection of their own and listen until it is closed."""
    with connect(address) as connection:
        try:
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            return listen(connection)
        return listen(connection)


def request(method: str, path: str, body: bytes = b"", *headers: str, host: str = "localhost") -> bytes:
    """A whole request that closes the connection after its answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if body:
        lines += [f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def post(path: str, body: bytes, *headers: str) -> bytes:
    return request("POST", path, body, "Content-Type: application/json", *headers)
