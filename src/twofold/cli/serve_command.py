"""`twofold serve`: run an app over HTTP, all roles of it or some, until it is stopped."""

import os
import sys

import click
import msgspec
from starlette.types import ASGIApp

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app
from twofold.cli.log_handler import LOG
from twofold.cli.output import Exit, columns, emit
from twofold.cli.reloading import serve_again_on_changes
from twofold.cli.server_options import ServerOptions, server_options
from twofold.cli.store_access import StoreUrls, store_options
from twofold.http.access_log import ACCESS_LOGGER
from twofold.http.role_paths import serves_pages
from twofold.http.server import run, serve
from twofold.roles import ALL_ROLES
from twofold.stores import shown, without_password
from twofold.ui import console


@click.command
@app_argument
@server_options
@click.option(
    "--roles",
    metavar="ROLES",
    help=f"What this process does: any of {ALL_ROLES}, separated by commas. [default: TWOFOLD_ROLES or all]",
)
@store_options
@click.option("--reload", is_flag=True, help="Start again when a file of the current folder changes, in development.")
@json_option
def command(target: str, server: ServerOptions, roles: str | None, urls: StoreUrls, reload: bool, as_json: bool) -> int:
    """Serve an app over HTTP, with its pages and the console, or the part of it that `--roles` names.

    MODULE:APP names the app: `app:app` is the `app` in app.py of this folder. SIGTERM and Ctrl-C stop it with exit
    code 0 once the current requests are finished; a second signal does not wait for them.
    """
    if reload:
        return serve_again_on_changes(sys.argv[1:])
    LOG.serve(*([ACCESS_LOGGER] if server.access_log else []))
    app = load_app(target, urls)
    if roles is not None:
        app.settings = msgspec.structs.replace(app.settings, roles=roles)
    mounts = {"/console": console_of(app)} if "console" in app.roles else {}

    def started(url: str) -> None:
        if as_json:
            emit(addresses(app, url))
        else:
            print_addresses(target, app, url)

    run(serve(app, **server._asdict(), mounts=mounts, started=started))
    if not as_json:
        click.echo("Stopped.")
    return Exit.OK


def addresses(app: App, url: str) -> dict[str, object]:
    """The addresses, stores and process id of a running app."""
    return {
        "url": url,
        "pages": f"{url}/" if _has_pages(app) else None,
        "console": f"{url}/console/" if "console" in app.roles else None,
        "docs": f"{url}/docs",
        "write_store": without_password(app.settings.write_store),
        "read_store": without_password(app.settings.read_store),
        "roles": list(app.roles),
        "pid": os.getpid(),
    }


def console_of(app: App) -> ASGIApp:
    """The console, linked with the pages of the app if it has any."""
    return console(home="/" if _has_pages(app) else None)


def _has_pages(app: App) -> bool:
    return app.pages is not None and serves_pages(app.roles)


def print_addresses(name: str, app: App, url: str, *, err: bool = False) -> None:
    """Print the addresses of a running app, on standard error where standard output is for programs."""
    click.echo(f"{name} is running. Ctrl-C stops it.", err=err)
    rows = [["pages", f"{url}/"]] if _has_pages(app) else []
    rows += [["console", f"{url}/console/"]] if "console" in app.roles else []
    rows += [["API", f"{url}/docs"]]
    rows += [["roles", str(app.roles)]] if str(app.roles) != ALL_ROLES else []
    rows += [["write store", shown(app.settings.write_store)], ["read store", shown(app.settings.read_store)]]
    for line in columns(rows):
        click.echo(f"  {line}", err=err)
