"""Authentication: from the headers of a request to its actor, by the first authenticator that knows the credentials."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from twofold.access.rules import AccessRules
from twofold.domain.actor import Actor
from twofold.domain.command_ids import RUNTIME
from twofold.errors import FunctionFailed, NotAuthenticated, TwofoldError, WiringError, failed
from twofold.world import World

Headers = Mapping[str, str]
"""Header names in lower case, and their values."""

AuthenticateFunction = Callable[[Headers], Actor | Awaitable[Actor | None] | None]
"""A function of the app: the actor of a request by its headers; None where they have no credentials that it knows."""


@runtime_checkable
class Authenticator(Protocol):
    """Knows one kind of credentials."""

    scheme: str
    """The name of its security scheme in the description of the API."""

    @property
    def description(self) -> dict[str, Any]:
        """Its Security Scheme Object of OpenAPI 3.1."""
        ...

    async def authenticate(self, headers: Headers, world: World) -> Actor | None:
        """The actor; None where the request has no credentials of this kind. NotAuthenticated where they are wrong."""
        ...


class Authentication:
    """All authenticators of an app, in order. WiringError where one is neither an authenticator nor a function."""

    def __init__(self, given: Sequence[Authenticator | AuthenticateFunction], world: World) -> None:
        if not isinstance(given, list | tuple):
            raise WiringError("authenticate=… takes a list: authenticate=[ApiKeys('keys.json')].")
        self._authenticators = [_authenticator(each) for each in given]
        self._world = world

    def __bool__(self) -> bool:
        return bool(self._authenticators)

    @property
    def schemes(self) -> dict[str, dict[str, Any]]:
        """The security schemes by name."""
        schemes: dict[str, dict[str, Any]] = {}
        for each in self._authenticators:
            schemes[each.scheme if each.scheme not in schemes else f"{each.scheme}{len(schemes) + 1}"] = (
                each.description
            )
        return schemes

    async def actor_of(self, headers: Headers) -> Actor | None:
        """The actor of a request; None where it has no credentials.

        NotAuthenticated where it has some that are wrong, or that no authenticator knows.
        """
        for authenticator in self._authenticators:
            actor = await authenticator.authenticate(headers, self._world)
            if actor is not None:
                if actor.name.startswith(RUNTIME):
                    raise NotAuthenticated(f"A caller cannot have a name that begins with '{RUNTIME}'.")
                return actor
        if "authorization" in headers:
            raise NotAuthenticated(
                "The credentials are of no kind that this server knows. Send `Authorization: Bearer …`."
            )
        return None


class FromFunction:
    """An authenticator made of a function of the app."""

    scheme = "custom"

    def __init__(self, function: AuthenticateFunction) -> None:
        self._function = function
        self._name = f"The authenticate function {getattr(function, '__qualname__', repr(function))}"

    @property
    def description(self) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": inspect.getdoc(self._function) or self._name}

    async def authenticate(self, headers: Headers, world: World) -> Actor | None:
        try:
            result = self._function(headers)
            actor: Any = await result if inspect.isawaitable(result) else result
        except TwofoldError:
            raise
        except Exception as error:
            raise failed(self._name, error) from error
        if actor is not None and not isinstance(actor, Actor):
            raise FunctionFailed(self._name, f"returned {type(actor).__name__}, but it returns an Actor or None")
        return actor


def check_login(authentication: Authentication, access: AccessRules) -> None:
    """WiringError where there is a login that limits nothing."""
    if authentication and access.is_open:
        raise WiringError(
            "The app has a login, but no access rules, so everybody may do everything. Say who may do what: "
            "App(…, access=[Allow(…), …])."
        )


def bearer_token(headers: Headers) -> str | None:
    """The token of `Authorization: Bearer …`; None where there is none, or credentials of another kind."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _authenticator(given: Authenticator | AuthenticateFunction) -> Authenticator:
    if not inspect.isclass(given) and isinstance(given, Authenticator):
        return given
    if inspect.isclass(given) or not callable(given):
        raise WiringError(f"authenticate=[…] takes authenticators and functions of the headers, not {given!r:.100}.")
    try:
        inspect.signature(given).bind({})
    except TypeError as error:
        shown = getattr(given, "__qualname__", repr(given))
        raise WiringError(f"The authenticate function {shown} takes one argument, the headers: {error}.") from error
    return FromFunction(given)
