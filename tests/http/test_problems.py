"""Each family of errors has its status, and whatever has none is an honest 500."""

import pytest

from twofold import (
    CommandIdReused,
    Conflict,
    FunctionFailed,
    GenerationChanged,
    InvalidMessage,
    NotAuthorised,
    Rejected,
    TwofoldError,
    Unavailable,
    UndeclaredAccess,
    UnknownMessage,
    UnreadableEvent,
    WiringError,
)
from twofold.http.problems import KINDS, headers_of, problem_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidMessage("x"), 400),
        (UndeclaredAccess("x"), 400),
        (NotAuthorised("x"), 403),
        (UnknownMessage("x"), 404),
        (Conflict("x"), 409),
        (GenerationChanged("x"), 409),
        (Rejected("x"), 422),
        (CommandIdReused("x"), 422),
        (Unavailable("x"), 503),
        (FunctionFailed("The decision f", "failed with KeyError", "the inside"), 500),
        (UnreadableEvent(7, "The event at position 7 cannot be read", ValueError("the inside")), 500),
        (WiringError("a path of the inside"), 500),
    ],
)
def test_every_family_has_its_status(error: TwofoldError, status: int) -> None:
    details = problem_of(error)
    assert details.status == status
    assert details.type.rpartition("#problem-")[2] in KINDS
    assert "inside" not in details.detail


def test_an_unavailable_position_has_the_lag_and_the_time_to_retry() -> None:
    error = Unavailable("x", lag=7, retry_after=2.1)
    assert problem_of(error).lag == 7
    assert headers_of(error, 503) == [(b"retry-after", b"3")]


def test_a_rejection_without_a_reason_shows_its_code() -> None:
    details = problem_of(Rejected("too-late"))
    assert (details.detail, details.code) == ("too-late", "too-late")
