"""API keys: random secrets in a file as salted hashes, each with a name, roles and a date on which it expires."""

import fcntl
import hashlib
import hmac
import logging
import os
import stat
from base64 import urlsafe_b64encode
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec

from twofold.access.authentication import Headers, bearer_token
from twofold.domain.actor import Actor
from twofold.domain.command_ids import RUNTIME
from twofold.errors import NotAuthenticated, Unavailable, WiringError
from twofold.world import World, secret_bytes

PREFIX = "tf_"
_CHECK_SECONDS = 1.0
log = logging.getLogger(__name__)

_WRONG = "The API key is unknown, revoked or expired."


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key as it is stored. `hash` is SHA-256 of the salt and the secret: a random secret of 256 bits needs no
    slow hash."""

    id: str
    name: str
    roles: list[str]
    tenant: str | None = None
    salt: str
    hash: str
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    expires: Annotated[datetime, msgspec.Meta(tz=True)]


class _KeyFile(msgspec.Struct):
    keys: list[ApiKey]


class ApiKeys:
    """Authenticates `Authorization: Bearer tf_…` against a file of keys, which `twofold key` writes.

    The file is read again within a second after it has changed. If it is missing, no key is valid; if it cannot be
    read, requests with keys get Unavailable.
    """

    scheme = "apiKey"

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._keys: dict[str, ApiKey] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._checked: float | None = None
        self._problem: str | None = None

    @property
    def description(self) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "An API key, made by `twofold key create`."}

    async def authenticate(self, headers: Headers, world: World) -> Actor | None:
        token = bearer_token(headers)
        if token is None or not token.startswith(PREFIX):
            return None
        number, _, secret = token.removeprefix(PREFIX).partition("_")
        self._refresh(world)
        if self._problem is not None:
            raise Unavailable(self._problem)
        key = self._keys.get(number)
        # The comparison is made in every case, and takes as long whatever is wrong.
        salt, stored = ("", "-") if key is None else (key.salt, key.hash)
        fits = hmac.compare_digest(_hash(salt, secret), stored)
        if key is None or not fits or key.expires <= world.now():
            raise NotAuthenticated(_WRONG)
        return Actor(key.name, frozenset(key.roles), key.tenant)

    def _refresh(self, world: World) -> None:
        now = world.monotonic()
        if self._checked is not None and now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp or self._problem is not None:
                self._keys = {key.id: key for key in read_keys(self._path)}
        except (OSError, WiringError):
            log.exception("API keys are refused")
            self._problem = "The API keys of this server cannot be read now. Send the request again later."
        else:
            self._problem, self._stamp = None, stamp


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file; none where there is no file. WiringError where it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_KeyFile).keys
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise WiringError(
            f"The file of API keys {path} cannot be read: {error}. Restore it, or make new keys."
        ) from error


def create_key(
    path: Path, world: World, *, name: str, roles: Sequence[str], days: float, tenant: str | None = None
) -> str:
    """Add a key to a file and return it: it is shown this once, and cannot be computed from the file.

    ValueError where the name is not one of an actor, or the days are not positive.
    """
    if not days > 0:
        raise ValueError("The key must be valid for more than 0 days.")
    if Actor(name).name.startswith(RUNTIME):
        raise ValueError(f"Names that begin with '{RUNTIME}' are those of Twofold itself.")
    path = path.resolve()
    now = world.now()
    id, salt = secret_bytes(world, 6).hex(), secret_bytes(world, 16).hex()
    secret = urlsafe_b64encode(secret_bytes(world, 32)).rstrip(b"=").decode()
    key = ApiKey(
        id=id,
        name=name,
        roles=sorted(set(roles)),
        tenant=tenant,
        salt=salt,
        hash=_hash(salt, secret),
        created=now,
        expires=now + timedelta(days=days),
    )
    with _locked(path):
        _write(path, [*read_keys(path), key])
    return f"{PREFIX}{id}_{secret}"


def revoke_key(path: Path, id: str) -> ApiKey:
    """Remove a key from a file and return it. KeyError where it has none with this id."""
    # What a link names is what servers read.
    path = path.resolve()
    with _locked(path):
        keys = read_keys(path)
        revoked = next((key for key in keys if key.id == id), None)
        if revoked is None:
            raise KeyError(id)
        _write(path, [key for key in keys if key is not revoked])
    return revoked


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Only one process at a time changes a file. Its folder is made if it is missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _write(path: Path, keys: list[ApiKey]) -> None:
    content = msgspec.json.format(msgspec.json.encode(_KeyFile(keys)), indent=2)
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        if path.exists():
            # Somebody may have let the user of a container read it.
            os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        file.write(content + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    # Otherwise a power cut could bring back a key that was revoked.
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
