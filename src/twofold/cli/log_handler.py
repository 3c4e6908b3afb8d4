"""In charge of what a command shows of the warnings and errors that the library, or the app, logs: a line for each."""

import logging

import click

from twofold.cli.output import printable


def show_warnings() -> None:
    """Show them on standard error, unless the command or the app has arranged for logging itself."""
    logging.lastResort = _Lines(logging.WARNING)


class _Lines(logging.Handler):
    """No traceback: an error that a fold raises is of the app's data, and shown to operators. No control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line: the level, the message, the error."""
        try:
            error = record.exc_info[1] if record.exc_info else None
            told = [record.getMessage(), *([f"{type(error).__name__}: {error}"] if error is not None else [])]
            click.echo(printable(": ".join([record.levelname, *told])), err=True)
        except Exception:  # noqa: BLE001 - this is how handlers tell of what keeps them from telling
            self.handleError(record)
