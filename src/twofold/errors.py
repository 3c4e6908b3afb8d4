"""Every error Twofold raises, as one tree.

TwofoldError
├── Rejected             a rule of the domain says no: part of the API, never retried (422)
├── Refused              the request must be changed before it is sent again
│   ├── NotAuthenticated     nobody is logged in, or the credentials are not valid (401)
│   ├── NotAuthorised        the caller is not allowed to do this (403)
│   ├── RoleAbsent           this process does not have the role that the request needs; another one has (421)
│   ├── InvalidMessage       the message breaks its own type or a limit (400)
│   ├── UnknownMessage       no message has that name (404)
│   ├── UndeclaredAccess     a filter or order that the read model does not declare (400)
│   └── CommandIdReused      the command id was used for another request (422)
├── Conflict             another command wrote first; already retried, safe to send again (409)
│   └── GenerationChanged    the generation that the request names is not the one that is being built (409)
├── Unavailable          a store cannot be reached or is behind; safe to send again (503)
│   └── ForkedHistory        a position belongs to another history than that of the log; an operator must act (503)
├── FunctionFailed       a function of the app failed: a bug in it (500)
├── UnreadableEvent      a stored event cannot be read by this code (500)
└── WiringError          the app is put together wrongly; raised at start
"""


class TwofoldError(Exception):
    """The base of all errors that Twofold raises on purpose. Any other error is a bug."""


class Rejected(TwofoldError):
    """A rule of the domain says no. Do not retry: show `code` and `reason` to the user."""

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason


class Refused(TwofoldError):
    """The request cannot be handled as it is. Change it, or the caller, before sending it again."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotAuthenticated(Refused):
    """Nobody is logged in, or the credentials are wrong, expired or revoked. Send valid ones."""


class NotAuthorised(Refused):
    """The caller is not allowed to do this."""


class RoleAbsent(Refused):
    """This process does not have the role that the request needs. Send it to one that has; the text names the role."""


class InvalidMessage(Refused):
    """The message breaks its type or a limit. `field` is the place; the text says what to change."""


class UnknownMessage(Refused):
    """No command, query, event or read model of this app has that name."""


class UndeclaredAccess(Refused):
    """A query used a filter or an order that the projection does not declare."""


class CommandIdReused(Refused):
    """This command id was already used for a different request. Send the new request under a new id."""


class Conflict(TwofoldError):
    """Other commands kept writing into the same consistency boundary. Nothing was written. Send it again."""


class GenerationChanged(Conflict):
    """Another generation is being built than the request names, or it was dropped. Look at the generations again."""


class Unavailable(TwofoldError):
    """A store cannot be reached, or a read model is behind or paused. Send the same request again.

    `retry_after` is the number of seconds to wait before that. `lag` is the number of events that a read model is
    behind, where that is the reason.
    """

    def __init__(self, message: str, *, lag: int | None = None, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.lag = lag
        self.retry_after = retry_after


class ForkedHistory(Unavailable):
    """A stored position is not one of this log's history: a backup was restored, or stores were mixed up.

    Sending again does not help. An operator restores the right log, or accepts this one with `twofold recover`.
    """


class FunctionFailed(TwofoldError):
    """A function of the app raised an error that it may not raise, or returned what it may not: a bug in it.

    `function` names it, `what` says what it did, without any values: that may be shown to callers. The text has the
    details, and the error that it raised is the cause.
    """

    def __init__(self, function: str, what: str, details: str = "") -> None:
        super().__init__(f"{function} {what}{f': {details}' if details else '.'}")
        self.function = function
        self.what = what


def failed(function: str, error: BaseException) -> FunctionFailed:
    """What to raise in place of an error of no family: also of SystemExit and the like, which would end the process."""
    return FunctionFailed(function, f"failed with {type(error).__name__}", str(error))


class UnreadableEvent(TwofoldError):
    """A stored event cannot be read by this code: its bytes do not fit its type, or an upcaster failed.

    `position` is its position, `what` says that without the values in it, and the error is the cause.
    """

    def __init__(self, position: int, what: str, error: BaseException) -> None:
        super().__init__(f"{what}: {type(error).__name__}: {error}")
        self.position = position
        self.what = f"{what} ({type(error).__name__})."


class WiringError(TwofoldError):
    """The app is put together wrongly. The text names the function, the type and the cure."""
