"""A log handler that prints each warning or error of the library and the app as one line."""

import logging

import click

from twofold.cli.output import printable


def show_warnings() -> None:
    """Print warnings to standard error, unless the command or the app has configured logging."""
    logging.lastResort = _LineHandler(logging.WARNING)


class _LineHandler(logging.Handler):
    """Prints no traceback, because an error of a fold is about data of the app, and no control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line: the level, the message, the error."""
        try:
            error = record.exc_info[1] if record.exc_info else None
            parts = [record.levelname, record.getMessage()]
            parts += [f"{type(error).__name__}: {error}"] if error is not None else []
            click.echo(printable(": ".join(parts)), err=True)
        except Exception:  # noqa: BLE001 - the protocol of log handlers for errors of their own
            self.handleError(record)
