"""Errors as the caller sees them: problem details (RFC 9457), one kind for each family of errors."""

import math
from typing import NamedTuple

import msgspec

from twofold import errors
from twofold.errors import FunctionFailed, Refused, Rejected, TwofoldError, Unavailable, UnreadableEvent

CONTENT_TYPE = b"application/problem+json"

UNEXPECTED = TwofoldError("An unexpected error occurred, a bug. It was logged with all details.")
"""Sent for every unexpected error: its details are in the log of the process, not in the answer."""


class HttpRefused(Refused):
    """The request breaks a rule of the HTTP API: its method, size, content type, time or origin."""

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


class ProblemKind(NamedTuple):
    """One kind of problem: its status, its title, and what the client should do."""

    status: int
    title: str
    cure: str


KINDS = {
    "invalid-message": ProblemKind(400, "The request is not valid", "Correct what `field` names, then send it again."),
    "undeclared-access": ProblemKind(400, "The read model does not declare this access", "Use a declared access."),
    "not-authenticated": ProblemKind(401, "Log in first", "Send valid credentials in `Authorization`."),
    "not-authorised": ProblemKind(
        403, "This is not allowed", "Use an allowed host and origin, and a role that has the right."
    ),
    "unknown-message": ProblemKind(404, "Not found", "Look up the name in `/docs`."),
    "method-not-allowed": ProblemKind(405, "Method not allowed", "Use one of the methods in `Allow`."),
    "too-slow": ProblemKind(408, "The request did not arrive in time", "Send the whole request again."),
    "conflict": ProblemKind(409, "Another request wrote first", "Nothing was written. Send the same request again."),
    "generation-changed": ProblemKind(
        409, "Another generation is being built", "Look at the generations again, then name the one to switch to."
    ),
    "too-large": ProblemKind(413, "The body is too large", "Send less at once."),
    "not-json": ProblemKind(415, "The body is not JSON", "Send `Content-Type: application/json`."),
    "rejected": ProblemKind(422, "Rejected by a domain rule", "Show `detail` to the user. Do not send it again."),
    "command-id-reused": ProblemKind(422, "The idempotency key was used before", "Use a new key for a new command."),
    "role-absent": ProblemKind(
        421, "Another process serves this", "Send it to a process with the role that `detail` names."
    ),
    "headers-too-large": ProblemKind(431, "The headers are too large", "Send fewer or shorter headers."),
    "unexpected-error": ProblemKind(500, "An unexpected error", "Report it: the log of the process has the details."),
    "function-failed": ProblemKind(500, "A function of the app failed", "Report it: the same request fails again."),
    "unreadable-event": ProblemKind(500, "A stored event cannot be read", "Report it: the same request fails again."),
    "unavailable": ProblemKind(503, "Not available now", "Send the same request again after `Retry-After` seconds."),
}
"""Every kind of problem, by the last word of its `type`."""

_FAMILIES: dict[type[TwofoldError], str] = {
    errors.InvalidMessage: "invalid-message",
    errors.UndeclaredAccess: "undeclared-access",
    errors.NotAuthenticated: "not-authenticated",
    errors.NotAuthorised: "not-authorised",
    errors.RoleAbsent: "role-absent",
    errors.UnknownMessage: "unknown-message",
    errors.Conflict: "conflict",
    errors.GenerationChanged: "generation-changed",
    errors.Rejected: "rejected",
    errors.CommandIdReused: "command-id-reused",
    errors.Unavailable: "unavailable",
    errors.FunctionFailed: "function-failed",
    errors.UnreadableEvent: "unreadable-event",
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A problem as it is sent. `field` names the place, `code` the rule, `lag` the events a read model is behind."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    code: str | None = None
    lag: int | None = None


def problem_of(error: TwofoldError, root: str = "") -> Problem:
    """The problem of an error, by its family; an error of another family is an unexpected one. `root` is the path under
    which the API is public: the type links to its docs page."""
    kind = error.kind if isinstance(error, HttpRefused) else _kind_of(type(error))
    if kind is None:
        error, kind = UNEXPECTED, "unexpected-error"
    status, title, _ = KINDS[kind]
    code = error.code if isinstance(error, Rejected) else None
    return Problem(
        type=f"{root}/docs#problem-{kind}",
        title=title,
        status=status,
        detail=_detail(error) or title,
        field=error.field if isinstance(error, Refused) else None,
        code=code,
        lag=error.lag if isinstance(error, Unavailable) else None,
    )


def headers_of(error: TwofoldError, status: int) -> list[tuple[bytes, bytes]]:
    """The headers of a problem besides its content type: when to retry, which methods are allowed."""
    headers = error.headers if isinstance(error, HttpRefused) else []
    if status == 503:
        after = error.retry_after if isinstance(error, Unavailable) else 1.0
        return [*headers, (b"retry-after", b"%d" % max(1, math.ceil(after)))]
    if status == 401:
        return [*headers, (b"www-authenticate", b"Bearer")]
    return headers


def is_bug(error: TwofoldError) -> bool:
    """Whether an error is a bug, of the app or of Twofold: then its traceback belongs into the log."""
    return problem_of(error).status == 500


def _detail(error: TwofoldError) -> str:
    """What the caller reads. Of a bug not the text of the error: it may hold what callers must not see."""
    match error:
        case Rejected():
            return error.reason or error.code
        case FunctionFailed():
            return f"{error.function} {error.what}. The log of the process has the details."
        case UnreadableEvent():
            return f"{error.what} The log of the process has the details."
        case _:
            return str(error)


def _kind_of(error: type[TwofoldError]) -> str | None:
    return next((_FAMILIES[family] for family in error.__mro__ if family in _FAMILIES), None)
