"""Commands a second over HTTP, beside a bare ASGI application that reads and writes JSON under the same server."""

import argparse
import asyncio
import multiprocessing
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Annotated

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send

from twofold import App, DecisionModel, Module, Tag
from twofold.http.server import serve

AccountId = Annotated[str, Tag("account")]
CALLERS = 32


class Deposit(msgspec.Struct, frozen=True):
    """Put money into an account."""

    account_id: AccountId
    cents: int


class Deposited(msgspec.Struct, frozen=True):
    """Money came in."""

    account_id: AccountId
    cents: int


class Account(msgspec.Struct, frozen=True):
    """What an account holds."""

    cents: int = 0

    def evolve(self, event: Deposited) -> "Account":
        return Account(self.cents + event.cents)


def deposit(command: Deposit, account: Account) -> Deposited:
    return Deposited(command.account_id, command.cents)


bank = Module("bank", events=[Deposited], models=[DecisionModel(Account, by=AccountId)], decisions=[deposit])


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The least an ASGI application can do with a POST of JSON."""
    message = await receive()
    body = msgspec.json.encode(msgspec.json.decode(message["body"]))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_bare(port: int, pipe: Connection) -> None:
    config = uvicorn.Config(bare, port=port, lifespan="off", log_config=None, access_log=False, server_header=False)
    config.http = "httptools"
    pipe.send(True)
    uvicorn.Server(config).run()


def serve_app(port: int, pipe: Connection, write_store: str = "memory:") -> None:
    app = App(bank, write_store=write_store, read_store="memory:")
    factory = uvicorn.Config(app="", loop="auto").get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(app, port=port, started=lambda _: pipe.send(True)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def caller(port: int, number: int, until: float) -> list[float]:
    """One connection that posts and reads, one after the other; how long each took, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = msgspec.json.encode({"account_id": f"a-{number}", "cents": 100})
    head = f"POST /commands/deposit HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    took: list[float] = []
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        took.append(time.perf_counter() - begun)
    writer.close()
    return took


async def load(port: int, seconds: float, callers: int) -> list[float]:
    until = time.perf_counter() + seconds
    rows = await asyncio.gather(*(caller(port, number, until) for number in range(callers)))
    return sorted(each for row in rows for each in row)


class Wire(msgspec.Struct, frozen=True):
    """Requests a second, and how long one took (milliseconds)."""

    rate: float
    p50: float
    p99: float


def measure(name: str, target: Callable[..., None], seconds: float, *given: object, callers: int = CALLERS) -> Wire:
    """What a server in a process of its own answers; `target` is called with a port, a pipe, and what is given."""
    port = free_port()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=target, args=(port, theirs, *given), daemon=True)
    server.start()
    ours.recv()
    factory = uvicorn.Config(app="", loop="auto").get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        while True:
            try:
                runner.run(load(port, 1.0, callers))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        took = runner.run(load(port, seconds, callers))
    server.terminate()
    server.join()
    rate = len(took) / seconds
    middle, late = took[len(took) // 2] * 1e3, took[len(took) * 99 // 100] * 1e3
    print(f"{name:32} {rate:10,.0f}/s   p50 {middle:6.2f} ms   p99 {late:6.2f} ms")
    return Wire(rate, middle, late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    print(f"POST of a small JSON body, {CALLERS} connections, one process each for server and callers")
    plain = measure("bare ASGI, JSON in and out", serve_bare, seconds)
    ours = measure("POST /commands, log in memory", serve_app, seconds)
    print(f"share of the bare one: {ours.rate / plain.rate:.0%} (wanted: 25 %)")


if __name__ == "__main__":
    main()
