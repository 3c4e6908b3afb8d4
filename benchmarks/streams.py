"""Measures streams over HTTP beside commands: that of events behind a writer at full speed, and live queries of many
rows."""

import asyncio
import http.client
import multiprocessing
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from benchmarks.harness import Result, compare, result, run
from benchmarks.http import Deposit, bank, free_port
from twofold import App, Module, Projection, Tag, View
from twofold.http.server import serve

CALLERS = 32
ROWS = 8_000
LISTENERS = 100
ItemId = Annotated[str, Tag("item")]


class Load(NamedTuple):
    """What a server writes: the module of its app, the command of each number, and how many it sends at first."""

    module: Module
    command: Callable[[int], object]
    at_first: int = 0


def deposit_number(number: int) -> Deposit:
    return Deposit(f"a-{number % 1_000}", 1)


def deposits() -> Load:
    return Load(bank, deposit_number)


async def _write(app: App, command: Callable[[int], object], callers: int, seconds: float) -> int:
    """The number of commands that so many callers have sent, each one after the other."""
    sent, end = 0, time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal sent
        while time.perf_counter() < end:
            sent += 1
            await app.send(command(sent))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sent


def serve_and_write(port: int, pipe: Connection, load: Callable[[], Load], write_store: str) -> None:
    """Serve an app. For each (callers, seconds) from the pipe, write so long, and answer the number of commands."""

    async def work() -> None:
        module, command, at_first = load()
        app = App(module, write_store=write_store, read_store="memory:")
        started = asyncio.Event()
        serving = asyncio.create_task(serve(app, port=port, started=lambda _: started.set()))
        await started.wait()
        for start in range(0, at_first, 500):
            await asyncio.gather(*(app.send(command(start + number)) for number in range(500)))
        pipe.send(0)
        receive = asyncio.get_running_loop().run_in_executor
        while True:
            callers, seconds = await receive(None, pipe.recv)
            if serving.done():
                raise RuntimeError("the server has stopped")
            pipe.send(await _write(app, command, callers, seconds))

    run(work())


@contextmanager
def writing_server(load: Callable[[], Load], write_store: str) -> Iterator[tuple[int, Connection]]:
    """A server in a process of its own: its port, and the pipe to `serve_and_write`."""
    port = free_port()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve_and_write, args=(port, theirs, load, write_store), daemon=True)
    process.start()
    try:
        ours.recv()
        yield port, ours
    finally:
        process.kill()
        process.join()


class StreamReader(threading.Thread):
    """Reads a stream to its end, and counts its server-sent events of one name."""

    def __init__(self, port: int, path: str, event: str) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.request("GET", path, headers={"Accept": "text/event-stream"})
        self._stream = self._connection.getresponse()
        self._line = f"event: {event}\n".encode()
        self.count = 0
        self.start()

    def run(self) -> None:
        tail = b""
        try:
            while piece := self._stream.read1(1_048_576):
                # The end of the piece before has a part of a line at most.
                read = tail + piece
                self.count += read.count(self._line)
                tail = read[1 - len(self._line) :]
        except http.client.IncompleteRead:
            # The server was killed: the measurement is over.
            return


class Followed(NamedTuple):
    """What a stream delivered while a writer wrote, what was written, and how much later the last event came (ms)."""

    delivered: int
    written: int
    late: float


def followed(write_store: str, callers: int, seconds: float) -> Followed:
    with writing_server(deposits, write_store) as (port, pipe):
        reader = StreamReader(port, "/events", "event")
        pipe.send((callers, seconds))
        written = pipe.recv()
        ended, delivered = time.perf_counter(), reader.count
        while reader.count < written:
            time.sleep(0.0005)
        return Followed(delivered, written, 1e3 * (time.perf_counter() - ended))


def event_stream(rounds: int, seconds: float) -> list[Result]:
    """Events that a stream delivers while 32 callers in the server write at full speed, beside those written."""
    found: list[Result] = []
    stores: dict[str, Callable[[Path], str]] = {
        "memory": lambda _: "memory:",
        "SQLite": lambda folder: f"sqlite:///{folder}/log.db",
    }
    for name, url in stores.items():
        seen: list[Followed] = []

        def measured(folder: Path, url: Callable[[Path], str] = url, seen: list[Followed] = seen) -> float:
            seen.append(followed(url(folder), CALLERS, 2 * seconds))
            return seen[-1].delivered / (2 * seconds)

        figures = compare(rounds, delivered=measured)
        figures["written"] = [each.written / (2 * seconds) for each in seen]
        label = f"{name}: stream of events behind a writer"
        found.append(result(label, figures, "delivered", "written", "ev/s", must=0.9))
        late = statistics.median(each.late for each in seen)
        found.append(Result(f"{label}, last event late by", late, 1.0, "1 ms", "ms", less=True))
    return found


class SetItem(msgspec.Struct, frozen=True):
    """Give an item a number."""

    item_id: ItemId
    number: int


class ItemSet(msgspec.Struct, frozen=True):
    """An item has a number."""

    item_id: ItemId
    number: int


class Item(msgspec.Struct, frozen=True):
    """An item, about 80 bytes of JSON."""

    item_id: str
    number: int
    text: str


class AllItems(msgspec.Struct, frozen=True):
    """All items at once."""


def set_item(command: SetItem) -> ItemSet:
    return ItemSet(command.item_id, command.number)


def item_row(row: Item | None, event: ItemSet) -> Item | None:
    return Item(event.item_id, event.number, "t" * 40)


async def all_items(query: AllItems, items: View[Item]) -> list[Item]:
    return await items.find(limit=ROWS)


def item_number(number: int) -> SetItem:
    return SetItem(f"i-{number % ROWS:05}", number)


def items() -> Load:
    projection = Projection("items", item_row, key=ItemId)
    module = Module("items", events=[ItemSet], decisions=[set_item], queries=[all_items], projections=[projection])
    return Load(module, item_number, ROWS)


class StreamListeners:
    """Connections to one stream, in a process of their own that reads them as fast as it can."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=listen, args=(port, path, count, theirs), daemon=True)
        self._process.start()
        # Each has its first answer.
        self._ours.recv()

    def stop(self) -> int:
        """End them. Returns how many bytes came after the first answers."""
        self._ours.send(None)
        received: int = self._ours.recv()
        self._process.join()
        return received


def listen(port: int, path: str, count: int, pipe: Connection) -> None:
    """Open streams and read them, until there is something in the pipe."""
    buffer = bytearray(1_048_576)
    first: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
            selector.register(connection, selectors.EVENT_READ)
            first[connection] = 0
        selector.register(pipe, selectors.EVENT_READ)
        received = 0
        while True:
            for key, _ in selector.select():
                if key.fileobj is pipe:
                    pipe.send(received)
                    return
                connection = key.fileobj
                read = connection.recv_into(buffer)
                received += read
                if connection in first:
                    first[connection] += read
                    if buffer[:read].endswith(b"\n\n\r\n") and first[connection] > ROWS * 40:
                        del first[connection]
                        if not first:
                            pipe.send(received)
                            received = 0


def live(rounds: int, seconds: float) -> list[Result]:
    """Commands a second of one caller, beside 100 listeners to one live query of 8,000 rows, and without them."""
    beside: list[float] = []
    sent: list[float] = []

    def measured(_: Path) -> float:
        with writing_server(items, "memory:") as (port, pipe):
            pipe.send((1, 4 * seconds))
            without = pipe.recv() / (4 * seconds)
            listeners = StreamListeners(port, "/queries/all-items", LISTENERS)
            pipe.send((1, 4 * seconds))
            beside.append(pipe.recv() / (4 * seconds))
            sent.append(listeners.stop() / 1e6 / (4 * seconds))
            return without

    figures = compare(rounds, without=measured)
    figures["ours"] = beside
    label = f"commands beside {LISTENERS} live queries of {ROWS:,} rows"
    return [
        result(label, figures, "ours", "without", "/s", must=0.5, ambition=0.8),
        Result(f"{label}, sent to them", statistics.median(sent), 1.0, "1 MB", "MB/s"),
    ]
