"""An issuer of tokens for the tests: keys of each kind, and tokens as they should be or forged."""

import base64
import hmac
import json
import warnings
from typing import Any

from joserfc import jws, jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

ISSUER = "https://login.example"
AUDIENCE = "shop"

RSA = RSAKey.generate_key(2048, {"kid": "rsa"}, auto_kid=False)
EC = ECKey.generate_key("P-256", {"kid": "ec"}, auto_kid=False)
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"}, auto_kid=False)
STRANGER_RSA = RSAKey.generate_key(2048, {"kid": "rsa"}, auto_kid=False)
STRANGER_EC = ECKey.generate_key("P-256", {"kid": "ec"}, auto_kid=False)
EC_384 = ECKey.generate_key("P-384", {"kid": "ec384"}, auto_kid=False)
KEYS = {"RS256": RSA, "ES256": EC, "EdDSA": ED}

JWKS: dict[str, Any] = json.loads(json.dumps(KeySet([RSA, EC, ED, EC_384]).as_dict(private=False)))

_EVERY = list(jws.JWSRegistry.algorithms)


def claims(now: float, **changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change to None leaves a claim out."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": int(now),
        "exp": int(now) + 300,
        "roles": ["clerk"],
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(content: dict[str, Any], algorithm: str = "RS256", key: Any = None, **header: Any) -> str:
    """A signed token."""
    key = KEYS[algorithm] if key is None else key
    head = {"alg": algorithm, "kid": key.kid} | header
    head = {name: value for name, value in head.items() if value is not None}
    registry = jws.JWSRegistry(algorithms=_EVERY, strict_check_header=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jwt.encode(head, content, key, algorithms=_EVERY, registry=registry)


def unsigned(header: dict[str, Any], content: Any, signature: bytes = b"") -> str:
    """A token of these parts, whatever they are."""
    return ".".join(_part(each) for each in (json.dumps(header).encode(), json.dumps(content).encode(), signature))


def signed_with_secret(header: dict[str, Any], content: dict[str, Any], secret: bytes) -> str:
    """A token signed with a shared secret, for example with a public key as it is published."""
    signing_input = unsigned(header, content).rpartition(".")[0]
    digest = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[header["alg"]]
    return f"{signing_input}.{_part(hmac.digest(secret, signing_input.encode(), digest))}"


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
