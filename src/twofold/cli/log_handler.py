"""What is logged, as lines for people or as JSON for programs: time, level, logger, message, error; never a payload.

A line is one record: characters of a message that would begin another line, or control a terminal, are escaped.
"""

import logging
import traceback
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from twofold.cli.output import printable
from twofold.telemetry.trace_log import TraceFilter

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

_encode = msgspec.json.Encoder().encode
_BEFORE_TRACEBACK = "  | "


class LogSetup:
    """The one log handler of this process, until the app configures logging itself.

    A command shows each record as one line. A server also shows times, names of loggers and tracebacks.
    """

    def __init__(self) -> None:
        self._handler = _Handler()
        self._handler.addFilter(TraceFilter())

    def install(self, level: str, kind: str) -> None:
        """Show records of a level and above, in one of the two forms."""
        self._handler.as_json = kind == "json"
        self._handler.setLevel(logging.NOTSET)
        logging.getLogger().setLevel(level.upper())
        # It has no effect where the app has configured logging.
        logging.lastResort = self._handler

    def serve(self, *loggers: str) -> None:
        """Show what a server must show, and all that these loggers are given."""
        self._handler.long = True
        root = logging.getLogger()
        if self._handler not in root.handlers:
            root.addHandler(self._handler)
        for name in loggers:
            logging.getLogger(name).setLevel(logging.INFO)


class _Handler(logging.Handler):
    """Writes to what is standard error at that time."""

    as_json = False
    long = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            text = json_line(record) if self.as_json else text_lines(record, long=self.long)
            click.echo(text, err=True)
        except Exception:  # noqa: BLE001 - the protocol of log handlers for errors of their own
            self.handleError(record)


def text_lines(record: logging.LogRecord, *, long: bool) -> str:
    """A record as one line; where it is `long` with its time and its logger, and the lines of its traceback marked."""
    error = _error(record)
    if not long:
        parts = [record.levelname, record.getMessage()]
        parts += [f"{type(error).__name__}: {error}"] if error is not None else []
        return printable(": ".join(parts))
    lines = [printable(f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}")]
    if error is not None:
        lines += [_BEFORE_TRACEBACK + printable(line) for line in _traceback(error).splitlines()]
    return "\n".join(lines)


def json_line(record: logging.LogRecord) -> str:
    """A record as an object: `time`, `level`, `logger`, `message`; `trace_id`, `error` and others where it has them."""
    fields: dict[str, Any] = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if trace_id := getattr(record, "trace_id", ""):
        fields |= {"trace_id": trace_id, "span_id": getattr(record, "span_id", "")}
    error = _error(record)
    if error is not None:
        fields["error"] = {"type": type(error).__name__, "message": str(error), "traceback": _traceback(error)}
    request = getattr(record, "request", None)
    if isinstance(request, dict):
        fields["request"] = request
    return _encode(fields).decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


LOG = LogSetup()
