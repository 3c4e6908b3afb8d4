"""In charge of what goes wrong as the caller sees it: problem details by RFC 9457, one kind per family of errors."""

import math
from typing import NamedTuple

import msgspec

from twofold.errors import (
    CommandIdReused,
    Conflict,
    InvalidMessage,
    NotAuthorised,
    Refused,
    Rejected,
    TwofoldError,
    Unavailable,
    UndeclaredAccess,
    UnknownMessage,
)

CONTENT_TYPE = b"application/problem+json"

UNEXPECTED = Unavailable("Something went wrong here, and it has been logged. Send the same request again later.")
"""Said of every error nobody foresaw: what it was is the log's to say, not the caller's to read."""


class HttpRefused(Refused):
    """The request breaks a rule of the wire: its method, its size, its type, its time, where it comes from."""

    def __init__(
        self, kind: str, message: str, *, field: str | None = None, close: bool = False, allow: str = ""
    ) -> None:
        super().__init__(message, field=field)
        self.kind = kind
        self.headers: list[tuple[bytes, bytes]] = []
        if close:
            self.headers.append((b"connection", b"close"))
        if allow:
            self.headers.append((b"allow", allow.encode()))


class Kind(NamedTuple):
    """One kind of problem: its status, its title, and what whoever gets it should do."""

    status: int
    title: str
    cure: str


KINDS = {
    "invalid-message": Kind(400, "The request is not valid", "Change what `field` names, then send it again."),
    "undeclared-access": Kind(400, "The read model does not declare this access", "Ask in a declared way."),
    "not-authorised": Kind(403, "This is not allowed", "Send it from where it may be sent."),
    "unknown-message": Kind(404, "Nothing here has this name", "Look the name up in `/docs`."),
    "method-not-allowed": Kind(405, "This method is not offered here", "Use one of those in `Allow`."),
    "too-slow": Kind(408, "The request did not arrive in time", "Send it again, all of it."),
    "conflict": Kind(409, "Others wrote first", "Nothing was written. Send the same request again."),
    "too-large": Kind(413, "The body is too large", "Send less at once."),
    "not-json": Kind(415, "The body is not JSON", "Send `Content-Type: application/json`."),
    "rejected": Kind(422, "A rule of the domain says no", "Do not send it again; show `detail` to whoever asked."),
    "command-id-reused": Kind(422, "The idempotency key was used before", "Use a new key for a new wish."),
    "headers-too-large": Kind(431, "The headers are too large", "Send fewer or shorter headers."),
    "unavailable": Kind(503, "Not now", "Send the same request again after `Retry-After` seconds."),
}
"""Every kind of problem, by the last word of its `type`."""

_FAMILIES: dict[type[TwofoldError], str] = {
    InvalidMessage: "invalid-message",
    UndeclaredAccess: "undeclared-access",
    NotAuthorised: "not-authorised",
    UnknownMessage: "unknown-message",
    Conflict: "conflict",
    Rejected: "rejected",
    CommandIdReused: "command-id-reused",
    Unavailable: "unavailable",
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem as it is sent. `field` names the place, `code` the rule, `lag` the events a read model is behind,
    `reasons` what keeps the process from being ready."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    code: str | None = None
    lag: int | None = None
    reasons: list[str] = []


def problem_of(error: TwofoldError, reasons: list[str] | None = None) -> Problem:
    """An error as the problem its family stands for; one that has no family here is an unexpected one."""
    kind = error.kind if isinstance(error, HttpRefused) else _kind_of(type(error))
    if kind is None:
        error, kind = UNEXPECTED, "unavailable"
    status, title, _ = KINDS[kind]
    code = error.code if isinstance(error, Rejected) else None
    detail = (error.reason or error.code) if isinstance(error, Rejected) else str(error)
    return Problem(
        f"/docs#problem-{kind}",
        title,
        status,
        detail or title,
        field=error.field if isinstance(error, Refused) else None,
        code=code,
        lag=error.lag if isinstance(error, Unavailable) else None,
        reasons=reasons or [],
    )


def headers_of(error: TwofoldError, status: int) -> list[tuple[bytes, bytes]]:
    """The headers that belong to a problem besides its type: when to come back, which methods there are."""
    if isinstance(error, HttpRefused):
        return error.headers
    if status == 503:
        after = error.retry_after if isinstance(error, Unavailable) else UNEXPECTED.retry_after
        return [(b"retry-after", b"%d" % max(1, math.ceil(after)))]
    return []


def _kind_of(error: type[TwofoldError]) -> str | None:
    return next((_FAMILIES[each] for each in error.__mro__ if each in _FAMILIES), None)
