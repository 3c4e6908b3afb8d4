"""The command line: `twofold serve`, `demo`, `log`, and those that look after stores. One module per command."""

import sys
from importlib import import_module
from typing import NoReturn

import click

from twofold.cli.log_handler import show_warnings
from twofold.cli.output import Exit, fail, unexpected
from twofold.errors import TwofoldError

COMMANDS = (
    "serve",
    "demo",
    "log",
    "projections",
    "parked",
    "partitions",
    "rebuild",
    "audit",
    "reindex",
    "migrate",
    "move",
)

__all__ = ["main"]


class _Commands(click.Group):
    """Loads a command's module when it is asked for: following a log needs no web server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"twofold.cli.{cmd_name}_command").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="twofold")
def twofold() -> None:
    """CQRS and event sourcing: serve an app, watch its log, look after its read models.

    \b
    Exit codes, of every command:
      0    done
      1    a bug, with its traceback
      2    used or put together wrongly: the text names the cure
      3    something is not healthy: parked, stopped, too far behind, totals or rows that are wrong
      4    a store cannot be reached or is not there yet; trying again may help
      130  interrupted by Ctrl-C before it was done

    With --json every command prints lines of JSON on standard output and nothing else there:
    {"ok": true, "data": …} or {"ok": false, "error": {"kind", "message", "field"}}.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    show_warnings()
    as_json = "--json" in sys.argv[1:]
    if as_json:
        sys.excepthook = unexpected
    sys.exit(_run(as_json))


def _run(as_json: bool) -> int:
    try:
        code = twofold.main(prog_name="twofold", standalone_mode=False)
    except (click.ClickException, TwofoldError) as error:
        return fail(error, as_json=as_json)
    except click.Abort:
        return Exit.INTERRUPTED
    except SystemExit:
        # This is how click ends when whoever reads has seen enough (`| head`), and only then.
        return Exit.OK
    return code if isinstance(code, int) else Exit.OK
