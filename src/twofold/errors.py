"""Every error Twofold raises, as one tree.

TwofoldError
├── Rejected             the business said no: part of the API, never retried (422)
├── Refused              may not or cannot be tried as it stands
│   ├── NotAuthorised        the caller may not (403)
│   ├── InvalidMessage       the message breaks its own type or a limit (400)
│   ├── UnknownMessage       nothing here has that name (404)
│   ├── UndeclaredAccess     a read model was asked in a way it does not declare (400)
│   └── CommandIdReused      the command id was used for another request (422)
├── Conflict             someone wrote first; already retried, safe to send again (409)
├── Unavailable          a store is away or not yet there; safe to send again (503)
└── WiringError          the app is put together wrongly; raised at start, never at run time
"""


class TwofoldError(Exception):
    """Whatever Twofold raises on purpose; everything else that escapes is a bug."""


class Rejected(TwofoldError):
    """A rule of the domain said no. Do not retry: show `code` and `reason` to whoever asked."""

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason


class Refused(TwofoldError):
    """The request cannot be tried as it stands. Change it (or who asks) before sending it again."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotAuthorised(Refused):
    """The caller may not do this."""


class InvalidMessage(Refused):
    """The message breaks its type or a limit; `field` names the place and the text the cure."""


class UnknownMessage(Refused):
    """No command, query, event or read model of this app has that name."""


class UndeclaredAccess(Refused):
    """A query asked a read model for a filter or an order its projection does not declare."""


class CommandIdReused(Refused):
    """This command id already stands for a different request. Send the new wish under a new id."""


class Conflict(TwofoldError):
    """Others kept writing into the same consistency boundary. Nothing was written; send it again."""


class Unavailable(TwofoldError):
    """A store cannot be reached or has not come far enough. Send the same request again after `retry_after` seconds.

    `lag` counts the events a read model is behind what was asked for, where that is the reason.
    """

    def __init__(self, message: str, *, lag: int | None = None, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.lag = lag
        self.retry_after = retry_after


class WiringError(TwofoldError):
    """The app is put together wrongly: the text names the function, the type and the cure."""
