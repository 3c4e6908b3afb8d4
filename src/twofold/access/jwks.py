"""The public keys of an issuer of tokens: given, or fetched from its JWKS address and kept."""

import asyncio
import logging
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from twofold.errors import Unavailable, WiringError
from twofold.world import World

log = logging.getLogger(__name__)

PublicKey = RSAKey | ECKey | OKPKey

_KINDS: Mapping[Any, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
"""Symmetric keys have no place in a published set."""

_MAX_BYTES = 1_048_576
_TIMEOUT = 5.0
_INTERVAL = 30.0
"""Seconds between two fetches at least, whatever unknown key ids are asked for."""
_MAX_AGE = 3_600.0
"""Seconds after which the keys are fetched again. Until that succeeds, the ones that are known are used."""


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySource(Protocol):
    """Where the public keys of an issuer come from."""

    async def key(self, kid: str | None, world: World) -> PublicKey | None:
        """The key with this id; with None the only key there is. None where there is no such key."""
        ...


class GivenKeys:
    """Keys from a JSON Web Key Set that is written down. WiringError where it is not one with public keys."""

    def __init__(self, jwks: Mapping[str, Any]) -> None:
        try:
            self._keys = _read(jwks)
        except ValueError as error:
            raise WiringError(f"The key set cannot be used: {error}") from error
        if not self._keys:
            raise WiringError("The key set has no public RSA, EC or Ed25519 key. Give the `keys` of the issuer.")

    async def key(self, kid: str | None, world: World) -> PublicKey | None:
        return _choose(self._keys, kid)


class FetchedKeys:
    """Keys from the JWKS address of an issuer, `https://…` (or a loopback address).

    Keys that are known stay in use while the issuer cannot be reached. Unavailable where none has ever been fetched.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
            raise WiringError(f"The JWKS address {url} is not https://…, so its keys could be forged on the way.")
        self._url = url
        self._host = parts.hostname
        self._keys: dict[str, PublicKey] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, world: World) -> PublicKey | None:
        now = world.monotonic()
        stale = self._fetched is None or now - self._fetched > _MAX_AGE
        key = _choose(self._keys, kid)
        pause = _INTERVAL if self._fetched is not None else _TIMEOUT
        if (key is None or stale) and (self._tried is None or now - self._tried >= pause):
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch(world), name="twofold-jwks")
        if key is None and self._fetching is not None:
            # It is shielded: another request may wait for the same keys.
            await asyncio.shield(self._fetching)
            key = _choose(self._keys, kid)
        if key is None and self._fetched is None:
            raise Unavailable("The keys of the login service cannot be fetched now.", retry_after=_TIMEOUT)
        return key

    async def _fetch(self, world: World) -> None:
        try:
            self._keys = _read(await self._download())
            self._fetched = world.monotonic()
        except (httpx.HTTPError, OSError, ValueError) as error:
            # Not the text of the error: it may have the address, and that a password.
            log.warning("The keys at %s cannot be fetched: %s", self._host, type(error).__name__)

    async def _download(self) -> Any:
        limits = httpx.Timeout(_TIMEOUT)
        async with (
            httpx.AsyncClient(timeout=limits, follow_redirects=False) as client,
            asyncio.timeout(_TIMEOUT),
            client.stream("GET", self._url) as response,
        ):
            response.raise_for_status()
            content = b""
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MAX_BYTES:
                    raise ValueError(f"the answer is larger than {_MAX_BYTES} bytes")
            return msgspec.json.decode(content)


def _read(jwks: Any) -> dict[str, PublicKey]:
    """The public keys by id (by their thumbprint where they have none). ValueError where that is no key set.

    Keys that cannot be used are left out, as RFC 7517 wants (section 5): others of the set can.
    """
    try:
        entries = msgspec.convert(jwks, _KeySet).keys
    except msgspec.ValidationError as error:
        raise ValueError(f"it is no JSON Web Key Set: {error}") from error
    keys: dict[str, PublicKey] = {}
    for entry in entries:
        key = _import(entry)
        if key is None:
            log.warning("A key of the key set cannot be used, and is left out.")
        elif key.get("use") != "enc":
            keys[key.kid or key.thumbprint()] = key
    return keys


def _import(entry: dict[str, Any]) -> PublicKey | None:
    kind = _KINDS.get(entry.get("kty"))
    try:
        return None if kind is None else kind.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        # Also of the library below: a point that is not on its curve, a number that is missing.
        return None


def _choose(keys: Mapping[str, PublicKey], kid: str | None) -> PublicKey | None:
    if kid is not None:
        return keys.get(kid)
    return next(iter(keys.values())) if len(keys) == 1 else None


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
