"""What a command prints and returns: exit codes, one line of JSON for programs, text for people."""

import sys
from enum import IntEnum
from types import TracebackType
from typing import Any

import click
import msgspec

from twofold.cli.user_errors import UserCodeFailed, user_traceback
from twofold.domain.events import kebab_case
from twofold.errors import ForkedHistory, FunctionFailed, Refused, TwofoldError, Unavailable, UnreadableEvent


class Exit(IntEnum):
    """The exit codes of all commands."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    UNHEALTHY = 3
    UNAVAILABLE = 4
    INTERRUPTED = 130


class Failure(msgspec.Struct, frozen=True):
    """Why a command failed: `kind` for programs, `message` for people, `field` if one option is the cause."""

    kind: str
    message: str
    field: str | None = None


def emit(data: Any) -> None:
    """One line of JSON on standard output, at once: `{"ok": true, "data": …}`."""
    _line({"ok": True, "data": data})


def fail(error: click.ClickException | TwofoldError, *, as_json: bool) -> Exit:
    """Report why a command failed; the exit code."""
    if as_json:
        _line({"ok": False, "error": _failure(error)})
    elif isinstance(error, click.ClickException):
        error.show()
    else:
        for line in f"Error: {error}".split("\n"):
            click.echo(printable(line), err=True)
    if isinstance(error, FunctionFailed | UnreadableEvent):
        _show_traceback(error.__cause__ or error)
        return Exit.UNEXPECTED
    # A forked history does not pass by itself, so trying again later does not help.
    later = isinstance(error, Unavailable) and not isinstance(error, ForkedHistory)
    return Exit.UNAVAILABLE if later else Exit.USAGE


def fail_with(error: UserCodeFailed, *, as_json: bool) -> Exit:
    """Report that code of the user failed, by its own traceback; the exit code."""
    if as_json:
        _line({"ok": False, "error": Failure("unexpected", str(error))})
    else:
        click.echo(f"Error: {error.what} failed.", err=True)
    assert error.__cause__ is not None
    _show_traceback(error.__cause__)
    return Exit.UNEXPECTED


def _show_traceback(error: BaseException) -> None:
    for line in user_traceback(error).splitlines():
        click.echo(printable(line), err=True)


def unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An excepthook: a JSON line on standard output, the traceback on standard error."""
    _line({"ok": False, "error": Failure("unexpected", f"{kind.__name__}: {error}")})
    sys.__excepthook__(kind, error, trace)


def printable(text: str) -> str:
    """Text that cannot control a terminal: characters that are not printable are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def columns(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Rows as lines with aligned columns; those in `right` are aligned right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  ".join(row[i].rjust(w) if i in right else row[i].ljust(w) for i, w in enumerate(widths)).rstrip()
        for row in rows
    ]


def _failure(error: click.ClickException | TwofoldError) -> Failure:
    if isinstance(error, click.ClickException):
        return Failure("usage", error.format_message(), _field(error))
    return Failure(kebab_case(type(error).__name__), str(error), error.field if isinstance(error, Refused) else None)


def _field(error: click.ClickException) -> str | None:
    """The option or argument that is the cause, as it is written on the command line."""
    if isinstance(error, click.NoSuchOption | click.BadOptionUsage):
        return error.option_name
    if not isinstance(error, click.BadParameter):
        return None
    if error.param is None:
        return str(error.param_hint) if error.param_hint else None
    return max(error.param.opts, key=len) if isinstance(error.param, click.Option) else error.param.metavar


def _line(envelope: dict[str, Any]) -> None:
    click.echo(msgspec.json.encode(envelope).decode())
