"""JSON Web Tokens: good ones are their actor, and no forged, stale or foreign one is accepted."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.access.jwt_helpers import (
    AUDIENCE,
    EC,
    EC_384,
    ED,
    ISSUER,
    JWKS,
    RSA,
    STRANGER_EC,
    STRANGER_RSA,
    claims,
    signed_with_secret,
    token,
    unsigned,
)
from twofold.access.authentication import Authentication
from twofold.access.jwt import JwtBearer
from twofold.domain.actor import Actor
from twofold.errors import NotAuthenticated, WiringError
from twofold.testing import FrozenWorld

WORLD = FrozenWorld()
NOW = WORLD.now().timestamp()


def issuer(**more: Any) -> JwtBearer:
    return JwtBearer(**{"issuer": ISSUER, "audience": AUDIENCE, "keys": JWKS} | more)


async def actor_of(text: str, bearer: JwtBearer | None = None, world: FrozenWorld = WORLD) -> Actor | None:
    return await Authentication([bearer or issuer()], world).actor_of({"authorization": f"Bearer {text}"})


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_good_token_is_its_actor(algorithm: str) -> None:
    content = claims(NOW)
    actor = await actor_of(token(content, algorithm))
    assert actor == Actor("ann", frozenset({"clerk"}), None, content)


async def test_other_claims_name_the_actor_the_roles_and_the_tenant() -> None:
    content = claims(NOW, email="a@b.example", realm_access={"roles": ["x"]}, scope="read write", org={"id": "acme"})
    actor = await actor_of(token(content), issuer(name="email", roles="realm_access.roles", tenant="org.id"))
    assert actor is not None and (actor.name, actor.roles, actor.tenant) == ("a@b.example", {"x"}, "acme")
    actor = await actor_of(token(content), issuer(roles="scope"))
    assert actor is not None and actor.roles == {"read", "write"}
    actor = await actor_of(token(claims(NOW, roles=None)))
    assert actor is not None and actor.roles == frozenset()


async def test_a_token_for_several_audiences_is_good_for_each() -> None:
    assert await actor_of(token(claims(NOW, aud=["other", AUDIENCE]))) is not None


async def test_several_issuers_are_known_side_by_side() -> None:
    other = issuer(issuer="https://other.example")
    both = Authentication([other, issuer()], WORLD)
    actor = await both.actor_of({"authorization": f"Bearer {token(claims(NOW))}"})
    assert actor is not None and actor.name == "ann"
    assert set(both.schemes) == {"jwt", "jwt2"}


async def test_no_caller_has_a_name_of_the_runtime() -> None:
    with pytest.raises(NotAuthenticated, match="begins with '~'"):
        await actor_of(token(claims(NOW, sub="~policy")))


async def test_a_key_that_cannot_be_used_is_left_out_of_its_set() -> None:
    broken = [
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "kid": "a"},
        {"kty": "RSA", "kid": "b"},
        {"kid": "c"},
    ]
    unknown = [
        {"kty": "EC", "crv": "brainpoolP256r1", "x": "AAAA", "y": "AAAA", "kid": "d"},
        {"kty": "NEW", "kid": "e"},
    ]
    assert await actor_of(token(claims(NOW)), issuer(keys={"keys": [*broken, *JWKS["keys"], *unknown]})) is not None


async def test_clocks_may_differ_by_the_leeway() -> None:
    assert await actor_of(token(claims(NOW, exp=int(NOW) - 59))) is not None
    assert await actor_of(token(claims(NOW, nbf=int(NOW) + 59))) is not None


async def test_a_token_that_was_accepted_is_refused_once_it_has_expired() -> None:
    world = FrozenWorld()
    bearer, text = issuer(leeway=0), token(claims(world.now().timestamp(), exp=int(world.now().timestamp()) + 30))
    assert await actor_of(text, bearer, world) is not None
    await world.advance(29.0)
    assert await actor_of(text, bearer, world) is not None
    await world.advance(2.0)
    with pytest.raises(NotAuthenticated):
        await actor_of(text, bearer, world)


async def test_a_token_without_a_key_id_needs_an_issuer_with_one_key() -> None:
    text = token(claims(NOW), kid=None)
    with pytest.raises(NotAuthenticated):
        await actor_of(text)
    one = {"keys": [key for key in JWKS["keys"] if key["kid"] == "rsa"]}
    assert await actor_of(text, issuer(keys=one)) is not None


def _flipped(text: str, part: int, at: int) -> str:
    parts = text.split(".")
    old = parts[part][at]
    parts[part] = parts[part][:at] + ("A" if old != "A" else "B") + parts[part][at + 1 :]
    return ".".join(parts)


_GOOD = {algorithm: token(claims(NOW), algorithm) for algorithm in ("RS256", "ES256", "EdDSA")}
_PEM = RSA.as_pem(private=False)
_DER = RSA.as_der(private=False)
_HEAD = {"alg": "RS256", "kid": "rsa"}

FORGED: dict[str, Callable[[], str]] = {
    # no signature
    **{
        f"alg {name!r}": lambda name=name: unsigned({"alg": name, "kid": "rsa"}, claims(NOW))
        for name in ("none", "None", "NONE", "nOnE", "", "RS256 ", "rs256", None, 0, [], {}, ["RS256"], True)
    },
    "no alg": lambda: unsigned({"kid": "rsa"}, claims(NOW)),
    "no signature": lambda: _GOOD["RS256"].rpartition(".")[0] + ".",
    "signature of zeros": lambda: unsigned(_HEAD, claims(NOW), bytes(256)),
    "EC signature of zeros": lambda: unsigned({"alg": "ES256", "kid": "ec"}, claims(NOW), bytes(64)),
    "Ed25519 signature of zeros": lambda: unsigned({"alg": "EdDSA", "kid": "ed"}, claims(NOW), bytes(64)),
    # the public key as a shared secret
    **{
        f"{name} with the public key as {kind}": lambda name=name, secret=secret: signed_with_secret(
            {"alg": name, "kid": "rsa"}, claims(NOW), secret
        )
        for name in ("HS256", "HS384", "HS512")
        for kind, secret in (("DER", _DER), ("JSON", json.dumps(RSA.as_dict(private=False)).encode()))
    },
    "HS256 with an empty secret": lambda: signed_with_secret({"alg": "HS256"}, claims(NOW), b"\x00"),
    # keys of others
    "a stranger's RSA key": lambda: token(claims(NOW), key=STRANGER_RSA),
    "a stranger's EC key": lambda: token(claims(NOW), "ES256", STRANGER_EC),
    "the key in the header": lambda: token(
        claims(NOW), key=STRANGER_RSA, jwk=STRANGER_RSA.as_dict(private=False), kid=None
    ),
    "the address of keys in the header": lambda: token(claims(NOW), key=STRANGER_RSA, jku="http://127.0.0.1:1/jwks"),
    "a certificate's address": lambda: token(claims(NOW), key=STRANGER_RSA, x5u="http://127.0.0.1:1/cert"),
    "a certificate": lambda: token(claims(NOW), key=STRANGER_RSA, x5c=["MIIB"]),
    # key ids
    **{
        f"kid {kid!r}": lambda kid=kid: token(claims(NOW), key=STRANGER_RSA, kid=kid)
        for kid in (
            "",
            "other",
            "../../../../dev/null",
            "' or 1=1 --",
            "http://127.0.0.1:1/key",
            "RSA",
            "rsa\x00",
            "x" * 900,
        )
    },
    "kid is a number": lambda: unsigned({"alg": "RS256", "kid": 1}, claims(NOW), b"x"),
    "kid is a list": lambda: unsigned({"alg": "RS256", "kid": ["rsa"]}, claims(NOW), b"x"),
    # another algorithm than that of the key, or one that is not allowed
    "RS256 with the id of the EC key": lambda: token(claims(NOW), kid="ec"),
    "ES256 with the id of the RSA key": lambda: token(claims(NOW), "ES256", kid="rsa"),
    "EdDSA with the id of the EC key": lambda: token(claims(NOW), "EdDSA", kid="ec"),
    "RS512": lambda: token(claims(NOW), "RS512", RSA),
    "PS256": lambda: token(claims(NOW), "PS256", RSA),
    "ES384": lambda: token(claims(NOW), "ES384", EC_384),
    "ES256 with the id of a P-384 key": lambda: token(claims(NOW), "ES256", EC, kid="ec384"),
    # changed on the way
    **{f"{name}, header changed": lambda text=text: _flipped(text, 0, 10) for name, text in _GOOD.items()},
    **{f"{name}, claims changed": lambda text=text: _flipped(text, 1, 20) for name, text in _GOOD.items()},
    **{f"{name}, signature changed": lambda text=text: _flipped(text, 2, 5) for name, text in _GOOD.items()},
    "claims of another token": lambda: ".".join(
        [*_GOOD["RS256"].split(".")[:1], token(claims(NOW, sub="admin")).split(".")[1], _GOOD["RS256"].split(".")[2]]
    ),
    "a critical extension that nobody knows": lambda: unsigned(_HEAD | {"crit": ["x"], "x": 1}, claims(NOW), b"x"),
    "unencoded payload": lambda: unsigned(_HEAD | {"crit": ["b64"], "b64": False}, claims(NOW), b"x"),
    # stale, early or for others
    "expired": lambda: token(claims(NOW, exp=int(NOW) - 61)),
    "expired for years": lambda: token(claims(NOW, exp=1)),
    "not valid yet": lambda: token(claims(NOW, nbf=int(NOW) + 120)),
    "issued in the future": lambda: token(claims(NOW, iat=int(NOW) + 3_600)),
    "no expiry": lambda: token(claims(NOW, exp=None)),
    **{
        f"expiry {value!r}": lambda value=value: token(claims(NOW, exp=value))
        for value in ("9999999999", True, [9999999999], {}, -1, 0)
    },
    "no issuer": lambda: token(claims(NOW, iss=None)),
    "another issuer": lambda: token(claims(NOW, iss="https://evil.example")),
    "an issuer that begins alike": lambda: token(claims(NOW, iss=f"{ISSUER}.evil.example")),
    "an issuer with a slash": lambda: token(claims(NOW, iss=f"{ISSUER}/")),
    "a list of issuers": lambda: token(claims(NOW, iss=[ISSUER])),
    "no audience": lambda: token(claims(NOW, aud=None)),
    "another audience": lambda: token(claims(NOW, aud="other")),
    "another case of the audience": lambda: token(claims(NOW, aud="Shop")),
    "no audience in the list": lambda: token(claims(NOW, aud=[])),
    "the audience as an object": lambda: token(claims(NOW, aud={AUDIENCE: 1})),
    # claims that are no actor
    "nobody": lambda: token(claims(NOW, sub=None)),
    "an empty name": lambda: token(claims(NOW, sub="")),
    "a name of two lines": lambda: token(claims(NOW, sub="ann\nbob")),
    "a name that is a number": lambda: token(claims(NOW, sub=7)),
    "a long name": lambda: token(claims(NOW, sub="x" * 201)),
    "roles that are a number": lambda: token(claims(NOW, roles=7)),
    "roles that are numbers": lambda: token(claims(NOW, roles=[7])),
    "roles that are an object": lambda: token(claims(NOW, roles={"admin": True})),
    # no tokens
    "dots": lambda: "..",
    "no JSON": lambda: "e30.e3.e30",
    "claims are a list": lambda: unsigned(_HEAD, [], b"x"),
    "claims are null": lambda: unsigned(_HEAD, None, b"x"),
    "claims nested deeply": lambda: unsigned(_HEAD, "[" * 3_000, b"x"),
    "too long": lambda: token(claims(NOW, x="y" * 9_000)),
    "no base64": lambda: "!!!.???.***",
    "letters that are not ASCII": lambda: _GOOD["RS256"].replace(".", ".\u0430", 1),
    "a lone surrogate": lambda: _GOOD["RS256"].replace(".", ".\udc80", 1),
}


def test_there_are_enough_forgeries() -> None:
    assert len(FORGED) >= 60


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_or_stale_token_is_refused(name: str) -> None:
    with pytest.raises(NotAuthenticated):
        await actor_of(FORGED[name]())


@pytest.mark.parametrize(("claim", "value"), [("aud", "other"), ("exp", 1), ("nbf", 9_999_999_999)])
async def test_the_claim_that_is_wrong_is_named(claim: str, value: object) -> None:
    with pytest.raises(NotAuthenticated, match=f"its claim '{claim}' is wrong or missing"):
        await actor_of(token(claims(NOW, **{claim: value})))


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        ({"algorithms": ["HS256"]}, "HS256 cannot be used. Use some of: RS256"),
        ({"algorithms": ["none"]}, "none cannot be used"),
        ({"algorithms": []}, "none cannot be used"),
        ({"audience": ""}, "needs the issuer and the audience"),
        ({"leeway": 61}, "0 to 60 seconds"),
        ({"keys": "http://login.example/jwks"}, "is not https"),
        ({"keys": {"keys": []}}, "no public"),
        ({"keys": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}, "no public"),
        ({"keys": {"nothing": 1}}, "no JSON Web Key Set"),
    ],
)
def test_settings_that_are_not_safe_are_refused_at_start(wrong: dict[str, Any], cure: str) -> None:
    with pytest.raises(WiringError, match=cure):
        issuer(**wrong)


def test_the_keys_of_the_tests_differ() -> None:
    assert len({key.thumbprint() for key in (RSA, EC, ED, STRANGER_RSA, STRANGER_EC, EC_384)}) == 6
    assert _PEM.startswith(b"-----BEGIN PUBLIC KEY")
