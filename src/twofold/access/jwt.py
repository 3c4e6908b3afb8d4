"""JSON Web Tokens of an issuer, as bearer tokens: pinned algorithms, and every claim that must be there is checked.

Needs the extra `twofold[login]`. The cryptography is that of joserfc. The checks are those of RFC 8725, section 3.
"""

from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import msgspec
from joserfc import jws, jwt
from joserfc.errors import ClaimError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from twofold.access.authentication import Headers, bearer_token
from twofold.access.jwks import FetchedKeys, GivenKeys, KeySource, PublicKey
from twofold.domain.actor import Actor
from twofold.errors import NotAuthenticated, WiringError
from twofold.world import World

_MAX_LENGTH = 8_192
_CACHED = 10_000
_CACHE_SECONDS = 60
_KEY_TYPES: Mapping[str, tuple[type[PublicKey], str | None]] = {
    "RS256": (RSAKey, None),
    "RS384": (RSAKey, None),
    "RS512": (RSAKey, None),
    "PS256": (RSAKey, None),
    "ES256": (ECKey, "P-256"),
    "ES384": (ECKey, "P-384"),
    "EdDSA": (OKPKey, "Ed25519"),
    "Ed25519": (OKPKey, "Ed25519"),
}
"""The type and the curve of the key of each algorithm. None is symmetric: who can verify could forge."""


class _Registry(jws.JWSRegistry):
    """The algorithms that are allowed, without a warning for "EdDSA": many issuers use that name of Ed25519."""

    def get_alg(self, name: str) -> Any:
        if name in (self.allowed or ()):
            return self.algorithms[name]
        raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")


class _Issuer(msgspec.Struct):
    iss: Any = None


class _Verified(NamedTuple):
    actor: Actor
    until: float


class JwtBearer:
    """Authenticates `Authorization: Bearer <JWT>` of one issuer.

    `keys` is the JWKS address of the issuer, or its key set. A token needs `iss`, `aud`, `exp` and the claim `name`,
    from which the actor's name is read; `roles` and `tenant` name claims, too, also inside of others
    (`realm_access.roles`). Roles are a list, or words in a text. `leeway` is how many seconds clocks may differ.
    `algorithms` are the only ones that are accepted, whatever a token says.
    """

    scheme = "jwt"

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: str | Mapping[str, Any],
        algorithms: Sequence[str] = ("EdDSA", "Ed25519", "ES256", "RS256"),
        name: str = "sub",
        roles: str = "roles",
        tenant: str | None = None,
        leeway: int = 60,
    ) -> None:
        unknown = [each for each in algorithms if each not in _KEY_TYPES]
        if unknown or not algorithms:
            raise WiringError(
                f"JwtBearer(algorithms=…): {', '.join(unknown) or 'none'} cannot be used. Use some of: "
                f"{', '.join(_KEY_TYPES)}."
            )
        if not issuer or not audience:
            raise WiringError("JwtBearer needs the issuer and the audience: else tokens made for others would do.")
        if not 0 <= leeway <= 60:
            raise WiringError("JwtBearer(leeway=…): clocks may differ by 0 to 60 seconds.")
        self._keys: KeySource = FetchedKeys(keys) if isinstance(keys, str) else GivenKeys(keys)
        self._issuer = issuer
        self._audience = audience
        self._algorithms = tuple(algorithms)
        self._claims = name, roles, tenant
        self._leeway = leeway
        self._registry = _Registry(algorithms=list(algorithms), strict_check_header=False)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    @property
    def description(self) -> dict[str, Any]:
        text = f"A token of {self._issuer} for {self._audience}."
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": text}

    async def authenticate(self, headers: Headers, world: World) -> Actor | None:
        token = bearer_token(headers)
        if token is None or token.count(".") != 2:
            return None
        if len(token) > _MAX_LENGTH or not token.isascii():
            raise NotAuthenticated(f"A token has at most {_MAX_LENGTH} characters, all ASCII.")
        if _issuer(token) not in (self._issuer, None):
            # Another authenticator may know that issuer.
            return None
        now = world.now().timestamp()
        digest = blake2b(token.encode(), digest_size=16).digest()
        verified = self._verified.get(digest)
        if verified is None or verified.until <= now:
            verified = await self._verify(token, now, world)
            self._verified[digest] = verified
            if len(self._verified) > _CACHED:
                self._verified.popitem(last=False)
        return verified.actor

    async def _verify(self, token: str, now: float, world: World) -> _Verified:
        try:
            header = jws.extract_compact(token.encode()).headers()
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in self._algorithms or not (kid is None or isinstance(kid, str)):
                raise NotAuthenticated("The token is not signed in a way that this server accepts.")
            key = await self._keys.key(kid, world)
            if key is None or not _fits(key, algorithm):
                raise NotAuthenticated("No key of the issuer has the id (`kid`) of the token and fits its algorithm.")
            claims = jwt.decode(token, key, algorithms=[algorithm], registry=self._registry).claims
            self._check(claims, now)
        except ClaimError as error:
            raise NotAuthenticated(f"The token is not valid: its claim '{error.claim}' is wrong or missing.") from error
        except (JoseError, ValueError, TypeError) as error:
            # The name says what is wrong, and nothing that is in the token.
            raise NotAuthenticated(f"The token is not valid: {type(error).__name__}.") from error
        return _Verified(self._actor(claims), min(claims["exp"] + self._leeway, now + _CACHE_SECONDS))

    def _check(self, claims: dict[str, Any], now: float) -> None:
        jwt.JWTClaimsRegistry(
            now=int(now),
            leeway=self._leeway,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
        ).validate(claims)

    def _actor(self, claims: dict[str, Any]) -> Actor:
        name, roles, tenant = self._claims
        try:
            return Actor(
                _text(claims, name),
                frozenset(_words(_inner(claims, roles))),
                None if tenant is None else _text(claims, tenant),
                claims,
            )
        except (ValueError, TypeError) as error:
            raise NotAuthenticated("The token does not say who its holder is, or which roles they have.") from error


def _issuer(token: str) -> object:
    """The issuer that a token names, which nobody has verified yet; None where it cannot be read."""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Issuer).iss
    except (ValueError, msgspec.MsgspecError):
        return None


def _fits(key: PublicKey, algorithm: str) -> bool:
    """Whether a key is of the type of an algorithm: an RSA key must not verify anything else, and so on."""
    kind, curve = _KEY_TYPES[algorithm]
    named = key.get("alg")
    return isinstance(key, kind) and (curve is None or key.get("crv") == curve) and named in (None, algorithm)


def _inner(claims: Mapping[str, Any], path: str) -> Any:
    """A claim, or one inside of others; None where it is missing. A claim with dots in its own name is found, too."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = cast("Mapping[str, Any]", value).get(part)
    return value


def _text(claims: Mapping[str, Any], path: str) -> str:
    value = _inner(claims, path)
    if not isinstance(value, str):
        raise TypeError(f"{path} is not a text")
    return value


def _words(value: Any) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        items = cast("list[object]", value)
        words = [item for item in items if isinstance(item, str)]
        if len(words) == len(items):
            return words
    raise TypeError("roles are no list of texts")
