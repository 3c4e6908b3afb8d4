"""The head of a response and the first piece of its body are written at once; a head alone waits for one turn only."""

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.sample_domains.counter_app_helpers import until
from twofold.http import Limits
from twofold.http.connection import JoinedHead, LimitedConnection, connection_with

REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n%s\r\n"


class WrittenTransport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def pause_reading(self) -> None:
        return None


@pytest.fixture
def transport() -> WrittenTransport:
    return WrittenTransport()


@pytest.fixture
async def joined(transport: WrittenTransport) -> JoinedHead:
    return JoinedHead(transport, asyncio.get_running_loop())


async def test_the_head_goes_out_with_the_first_piece(transport: WrittenTransport, joined: JoinedHead) -> None:
    for piece in (b"head,", b"first", b"second"):
        joined.write(piece)
    assert transport.written == [b"head,first", b"second"]
    await asyncio.sleep(0)
    assert transport.written == [b"head,first", b"second"]


async def test_a_head_whose_body_comes_later_goes_out_alone(transport: WrittenTransport, joined: JoinedHead) -> None:
    joined.write(b"head")
    await asyncio.sleep(0)
    assert transport.written == [b"head"]
    joined.write(b"body")
    assert transport.written == [b"head", b"body"]


async def test_what_is_closed_has_sent_its_head(transport: WrittenTransport, joined: JoinedHead) -> None:
    joined.write(b"head")
    joined.close()
    assert (transport.written, transport.closed, joined.is_closing()) == ([b"head"], True, True)
    await asyncio.sleep(0)
    assert transport.written == [b"head"]


async def test_nothing_is_written_to_a_connection_that_was_lost(
    transport: WrittenTransport, joined: JoinedHead
) -> None:
    joined.write(b"head")
    transport.close()
    await asyncio.sleep(0)
    assert transport.written == []


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})


def connected(transport: WrittenTransport) -> LimitedConnection:
    config = uvicorn.Config(answer, http=connection_with(Limits()), ws="none", lifespan="off", log_config=None)
    config.load()
    connection: LimitedConnection = config.http_protocol_class(  # type: ignore[call-arg, assignment]
        config=config, server_state=ServerState(), app_state={}
    )
    connection.connection_made(transport)
    return connection


async def test_a_server_writes_a_small_response_at_once(transport: WrittenTransport) -> None:
    connection = connected(transport)
    for number in (1, 2):
        connection.data_received(REQUEST % b"" + b"{}")
        await until(lambda number=number: len(transport.written) == number, "the response")
        assert transport.written[-1].startswith(b"HTTP/1.1 200") and transport.written[-1].endswith(b"\r\n\r\ndone")
    connection.connection_lost(None)


async def test_a_client_that_waits_for_100_continue_gets_it(transport: WrittenTransport) -> None:
    connection = connected(transport)
    connection.data_received(REQUEST % b"Expect: 100-continue\r\n")
    await until(lambda: transport.written == [b"HTTP/1.1 100 Continue\r\n\r\n"], "100 Continue")
    connection.data_received(b"{}")
    await until(lambda: transport.written[-1] == b"done", "the response")
    connection.connection_lost(None)


async def test_requests_that_come_together_are_answered_in_order(transport: WrittenTransport) -> None:
    connection = connected(transport)
    connection.data_received((REQUEST % b"" + b"{}") * 3)
    await until(lambda: b"".join(transport.written).count(b"done") == 3, "the responses")
    assert all(written.startswith(b"HTTP/1.1 200") and written.endswith(b"done") for written in transport.written)
    connection.connection_lost(None)
