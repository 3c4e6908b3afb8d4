"""The command line `twofold`. Each command has a module, `<name>_command.py`."""

import sys
from copy import copy
from importlib import import_module
from typing import Any, NoReturn

import click

from twofold.cli.log_handler import FORMATS, LEVELS, LOG
from twofold.cli.output import Exit, fail, fail_with, unexpected
from twofold.cli.user_errors import UserCodeFailed
from twofold.errors import TwofoldError
from twofold.settings import Settings
from twofold.settings_sources import SERVER_VARIABLES, file_values, variables

COMMANDS = (
    "serve",
    "demo",
    "check",
    "doctor",
    "log",
    "projections",
    "parked",
    "partitions",
    "pause",
    "resume",
    "rebuild",
    "audit",
    "reindex",
    "migrate",
    "move",
    "recover",
    "verify",
    "backup",
    "restore",
    "alerts",
    "dashboard",
    "key",
)

__all__ = ["main"]


def _note_level(context: click.Context, _: click.Parameter, level: str) -> None:
    context.meta[__name__] = level


def _install_log(context: click.Context, _: click.Parameter, kind: str) -> None:
    LOG.install(context.meta[__name__], kind)


_LOG_OPTIONS = (
    click.Option(
        ["--log-level"],
        type=click.Choice(LEVELS, case_sensitive=False),
        default="warning",
        show_default=True,
        envvar="TWOFOLD_LOG_LEVEL",
        is_eager=True,
        expose_value=False,
        callback=_note_level,
        help="Log records of this level and above.",
    ),
    click.Option(
        ["--log-format"],
        type=click.Choice(FORMATS, case_sensitive=False),
        default="text",
        show_default=True,
        envvar="TWOFOLD_LOG_FORMAT",
        expose_value=False,
        callback=_install_log,
        help="Log lines for people, or JSON for programs.",
    ),
)
"""The options of every command."""


class _Commands(click.Group):
    """Imports the module of a command only when it is needed, so that `log` imports no web server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"twofold.cli.{cmd_name}_command").command
        own = copy(command)
        own.params = [*command.params, *_LOG_OPTIONS]
        return own


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="twofold")
def twofold() -> None:
    """CQRS and event sourcing: serve an app, show its log, operate its read models.

    \b
    Exit codes, of every command:
      0    done
      1    a bug; its traceback is printed
      2    wrong usage or wiring; the message says what to do
      3    something is not healthy: parked keys, a follower too far behind, wrong rows or totals, a damaged log
      4    a store or server is not available; try again later
      130  interrupted by Ctrl-C

    With --json, standard output has only lines of JSON:
    {"ok": true, "data": …} or {"ok": false, "error": {"kind", "message", "field"}}.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    LOG.install("warning", "text")
    as_json = "--json" in sys.argv[1:]
    if as_json:
        sys.excepthook = unexpected
    sys.exit(_run(as_json))


def _defaults() -> dict[str, dict[str, Any]]:
    """The defaults of options that the file in the current folder sets. WiringError for names that are no settings."""
    known = Settings.__struct_fields__
    variables(known)
    values = {name: value for name, value in file_values(known)[0].items() if name in SERVER_VARIABLES}
    of_all = {name: value for name, value in values.items() if name.startswith("log_")}
    return {command: values if command == "serve" else of_all for command in COMMANDS}


def _run(as_json: bool) -> int:
    try:
        code = twofold.main(prog_name="twofold", standalone_mode=False, default_map=_defaults())
    except (click.ClickException, TwofoldError) as error:
        return fail(error, as_json=as_json)
    except UserCodeFailed as error:
        return fail_with(error, as_json=as_json)
    except click.Abort:
        return Exit.INTERRUPTED
    except SystemExit:
        # Click raises this only when the reader of the output has closed the pipe (`| head`).
        return Exit.OK
    return code if isinstance(code, int) else Exit.OK
