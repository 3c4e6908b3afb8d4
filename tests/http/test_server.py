"""A server is local by default, reports its health, and answers every request before it stops."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.access_helpers import guarded_bank
from tests.http.bank_server import open_bank
from tests.http.conftest import Server
from tests.http.http_helpers import DEPOSIT, problem
from tests.http.raw_http_helpers import connect, listen, request
from twofold import ALL, Allow, WiringError
from twofold.http import Trust, asgi
from twofold.http.server import listen as bind
from twofold.http.server import serve


def refused(address: str) -> None:
    raise WiringError(f"{address} can be reached from other machines")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
async def test_an_app_without_access_rules_is_served_on_loopback_only(host: str) -> None:
    with pytest.raises(WiringError, match=r"has no access rules: .*Bind to 127\.0\.0\.1, or say who may do what"):
        await serve(open_bank(), host=host, port=0, trust=Trust(hosts=frozenset({"bank.example"})))


async def test_an_app_with_a_command_without_a_rule_is_served_on_loopback_only() -> None:
    trust = Trust(hosts=frozenset({"bank.example"}))
    with pytest.raises(WiringError, match=r"no access rule names command 'withdraw'\. Allow each to a role, or list"):
        await serve(guarded_bank(), host="0.0.0.0", port=0, trust=trust)


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.intern", ["10.9.9.9"]),
        ("localhost", ["127.0.0.1", "10.9.9.9"]),
        ("localhost", ["::1", "fd00::7"]),
        ("inner", ["::ffff:10.9.9.9"]),
    ],
)
def test_a_name_is_of_loopback_only_if_all_its_addresses_are(
    host: str, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(WiringError, match=f"{host} is {addresses[-1]}, which can be reached from other machines"):
        bind(host, 0, refused)


def test_a_name_of_loopback_needs_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bind("shop.intern", 0, refused) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


async def test_a_server_that_is_open_to_others_must_name_its_hosts() -> None:
    app = guarded_bank(access=[Allow("clerk", commands=ALL, queries=ALL)])
    with pytest.raises(WiringError, match=r"--allow-host shop\.example"):
        await serve(app, host="0.0.0.0", port=0)


def test_an_address_others_can_reach_can_be_allowed() -> None:
    with bind("0.0.0.0", 0, lambda _: None) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_port_in_use_is_reported() -> None:
    with bind("127.0.0.1", 0, refused) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(WiringError, match=f"Port {port} on 127.0.0.1 is in use. .*choose another port"):
            bind("127.0.0.1", port, refused)


@pytest.mark.parametrize("host", ["nowhere.invalid", ""])
def test_a_name_without_an_address_is_reported(host: str) -> None:
    with pytest.raises(WiringError, match="no address"):
        bind(host, 0, refused)


def test_a_healthy_server_says_so(start: Callable[..., Server]) -> None:
    # Other tests leave followers of the shared server paused or behind.
    with httpx.Client(base_url=start().url, timeout=30) as http:
        assert http.get("/health/live").json() == {"ok": True}
        for side in ("", "?side=command", "?side=query"):
            answer = http.get(f"/health/ready{side}")
            assert (answer.status_code, answer.json()["level"]) == (200, "ready")
        assert http.get("/status").json()["health"] == http.get("/health/ready").json()
        assert problem(http.get("/health/ready?side=ui"), 400)["field"] == "side"


async def test_an_app_that_is_not_running_is_alive_and_not_ready() -> None:
    api = asgi(open_bank())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as http:
        assert (await http.get("/health/live")).status_code == 200
        answer = await http.get("/health/ready")
        assert "not running" in problem(answer, 503)["detail"]
        problem(await http.get("/status"), 503)
        problem(await http.post("/commands/deposit", json=DEPOSIT), 503)


async def test_a_follower_that_has_stopped_makes_the_app_degraded(monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_bank()
    api = asgi(app)
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as http:
        assert (await http.get("/health/ready")).json()["level"] == "ready"
        assert app._running is not None

        async def gone(*_: object, **__: object) -> None:
            raise OSError("the disk of the read store is gone")

        # Nothing can be saved, not even that an event is parked.
        follower = app._running.synchronization.workers[0].follower
        monkeypatch.setattr(follower, "apply", gone)
        monkeypatch.setattr(follower, "park", gone)
        await http.post("/commands/deposit", json=DEPOSIT)
        async with asyncio.timeout(60):
            while (answer := await http.get("/health/ready")).json()["level"] == "ready":
                await app.world.sleep(0.01)
        (reason,) = answer.json()["problems"]
        assert (answer.status_code, reason["code"], reason["subject"]) == (200, "stopped", "balances")
        assert "the disk of the read store is gone" in reason["message"]
        assert (await http.get("/health/live")).status_code == 200


def test_sigterm_lets_a_command_in_progress_finish_and_then_exits_with_0(start: Callable[..., Server]) -> None:
    server = start()
    answers: list[httpx.Response] = []

    def send() -> None:
        command = {"account_id": "ann", "seconds": 1.0}
        answers.append(httpx.post(f"{server.url}/commands/dawdle", json=command, timeout=60))

    sending = threading.Thread(target=send)
    with (
        httpx.Client(base_url=server.url) as http,
        http.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as following,
    ):
        pieces = following.iter_bytes()
        assert next(pieces)
        sending.start()
        until_read(server)
        begun = time.monotonic()
        code, errors = server.stop()
    sending.join()
    assert (code, answers[0].status_code) == (0, 200)
    assert time.monotonic() - begun < 30
    assert "Traceback" not in errors, errors


def until_read(server: Server) -> None:
    """Returns once the server has had time to read what was sent before: it answers what is sent after."""
    for _ in range(20):
        httpx.get(f"{server.url}/health/live")


def test_streams_end_in_order_when_the_server_stops(start: Callable[..., Server]) -> None:
    server = start()
    with connect(server.address) as connection:
        connection.sendall(request("GET", "/events?tag=account:none", b"", "Accept: text/event-stream"))
        listen(connection, until=b"retry: 2000\n\n")
        server.process.terminate()
        received = listen(connection)
    assert received.closed and received.data.endswith(b"0\r\n\r\n")
    assert server.stop()[0] == 0


def test_a_stopping_server_is_not_ready_but_still_answers_during_its_notice(start: Callable[..., Server]) -> None:
    server = start("--notice", "1.5")
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/health/ready").status_code == 200
        server.process.terminate()
        deadline = time.monotonic() + 30
        while (answer := http.get("/health/ready")).status_code == 200:
            assert time.monotonic() < deadline
        assert problem(answer, 503)["detail"] == "Not ready. This process is about to stop."
        assert http.post("/commands/deposit", json=DEPOSIT).status_code == 200
        assert http.get("/status").json()["health"]["level"] == answer.json()["level"] == "not_ready"
    assert server.stop()[0] == 0


def test_acknowledged_commands_survive_a_stop(start: Callable[..., Server], tmp_path: Path) -> None:
    urls = ["--write-store", f"sqlite:///{tmp_path}/log.db", "--read-store", f"sqlite:///{tmp_path}/views.db"]
    first = start(*urls)
    receipt = httpx.post(f"{first.url}/commands/deposit", json=DEPOSIT).json()
    assert first.stop()[0] == 0
    second = start(*urls)
    params = {"account_id": "ann", "position": receipt["token"]}
    answer = httpx.get(f"{second.url}/queries/balance-of", params=params)
    assert answer.json()["answer"] == {"account_id": "ann", "cents": 100}


async def test_a_server_that_speaks_lifespan_starts_and_stops_the_app() -> None:
    app = open_bank()
    sent: list[str] = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        message = next(messages)
        if message["type"] == "lifespan.shutdown":
            assert (await app.status()).health.level == "ready"
        return message

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await asgi(app)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_an_app_that_cannot_start_says_why_to_the_server(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    app = open_bank(write_store=f"sqlite:///{blocked}/log.db")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi(app)({"type": "lifespan"}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed" and sent[0]["message"]


async def test_web_sockets_are_refused() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi(open_bank())({"type": "websocket", "path": "/"}, receive, send)
    assert sent[0]["type"] == "websocket.close"
