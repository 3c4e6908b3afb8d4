"""Fetched keys: new ones are found, known ones are kept, and a flood of unknown key ids fetches nothing more."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.access.jwt_helpers import AUDIENCE, EC, ISSUER, JWKS, RSA, claims, token
from twofold.access import jwks
from twofold.access.jwt import JwtBearer
from twofold.domain.actor import Actor
from twofold.errors import NotAuthenticated, Unavailable
from twofold.testing import FrozenWorld


class KeyServer:
    """A server of one answer, over real HTTP; it counts the requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.status = "200 OK"
        self.body = json.dumps(_only("rsa")).encode()
        self.headers = ""
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        head = f"HTTP/1.1 {self.status}\r\n{self.headers}content-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        writer.close()


def _only(*kids: str) -> dict[str, Any]:
    return {"keys": [key for key in JWKS["keys"] if key["kid"] in kids]}


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    async with await asyncio.start_server(keys.answer, "127.0.0.1", 0) as server:
        keys.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        yield keys


def bearer_of(keys: KeyServer) -> JwtBearer:
    return JwtBearer(issuer=ISSUER, audience=AUDIENCE, keys=keys.url)


async def ask(
    bearer: JwtBearer, world: FrozenWorld, key: Any = RSA, algorithm: str = "RS256", **more: Any
) -> Actor | None:
    text = token(claims(world.now().timestamp(), **more), algorithm, key)
    return await bearer.authenticate({"authorization": f"Bearer {text}"}, world)


async def test_keys_are_fetched_once_for_many_tokens(key_server: KeyServer) -> None:
    bearer, world = bearer_of(key_server), FrozenWorld()
    actors = await asyncio.gather(*(ask(bearer, world, sub=f"user-{n}") for n in range(20)))
    assert {actor.name for actor in actors if actor} == {f"user-{n}" for n in range(20)}
    assert key_server.requests == 1


async def test_a_new_key_of_the_issuer_is_found_when_a_token_names_it(key_server: KeyServer) -> None:
    bearer, world = bearer_of(key_server), FrozenWorld()
    await ask(bearer, world)
    key_server.body = json.dumps(_only("ec")).encode()
    await world.advance(31.0)
    assert await ask(bearer, world, EC, "ES256") is not None
    with pytest.raises(NotAuthenticated):
        await ask(bearer, world, sub="later")


async def test_a_flood_of_unknown_key_ids_fetches_once_in_thirty_seconds(key_server: KeyServer) -> None:
    bearer, world = bearer_of(key_server), FrozenWorld()
    await ask(bearer, world)
    for n in range(50):
        text = token(claims(world.now().timestamp()), kid=f"unknown-{n}")
        with pytest.raises(NotAuthenticated):
            await bearer.authenticate({"authorization": f"Bearer {text}"}, world)
    assert key_server.requests == 1
    assert await ask(bearer, world, sub="ben") is not None


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        ("500 Internal Server Error", b"{}", ""),
        ("302 Found", b"", "location: http://127.0.0.1:1/\r\n"),
        ("200 OK", b"<html>", ""),
        ("200 OK", b'{"keys": 1}', ""),
        ("200 OK", b"[" * 2_000_000, ""),
    ],
)
async def test_known_keys_stay_in_use_while_the_issuer_fails(
    key_server: KeyServer, status: str, body: bytes, headers: str
) -> None:
    bearer, world = bearer_of(key_server), FrozenWorld()
    await ask(bearer, world)
    key_server.status, key_server.body, key_server.headers = status, body, headers
    await world.advance(7_200.0)
    with pytest.raises(NotAuthenticated):
        # An unknown key: this waits for the fetch that fails.
        await ask(bearer, world, EC, "ES256")
    assert key_server.requests == 2
    assert await ask(bearer, world, sub="ben") is not None


async def test_keys_that_the_issuer_withdraws_are_not_trusted_any_more(key_server: KeyServer) -> None:
    bearer, world = bearer_of(key_server), FrozenWorld()
    await ask(bearer, world)
    key_server.body = b'{"keys": []}'
    await world.advance(7_200.0)
    for name in ("ben", "eve"):
        with pytest.raises(NotAuthenticated):
            await ask(bearer, world, EC, "ES256", sub=name)
    with pytest.raises(NotAuthenticated):
        await ask(bearer, world)


async def test_an_issuer_that_never_answers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_TIMEOUT", 0.05)
    accepted = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        bearer, world = JwtBearer(issuer=ISSUER, audience=AUDIENCE, keys=url), FrozenWorld()
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot be fetched"):
                await ask(bearer, world)
        assert accepted.is_set()


async def test_requests_are_unavailable_until_keys_have_been_fetched(key_server: KeyServer) -> None:
    key_server.status = "503 Service Unavailable"
    bearer, world = bearer_of(key_server), FrozenWorld()
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot be fetched"):
            await ask(bearer, world)
    assert key_server.requests == 1
    key_server.status = "200 OK"
    await world.advance(6.0)
    assert await ask(bearer, world) is not None
