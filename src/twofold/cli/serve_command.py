"""In charge of `twofold serve`: all roles of an app in one process, over HTTP, until it is told to stop."""

import logging
import os

import click
from starlette.types import ASGIApp

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app, port_option, store_option, views_option
from twofold.cli.output import Exit, emit
from twofold.http.server import run
from twofold.stores import shown, without_password
from twofold.ui import console


@click.command
@app_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@port_option
@click.option(
    "--expose", is_flag=True, help="Allow an address that other machines reach. There is no authentication yet."
)
@store_option
@views_option
@json_option
def command(
    target: str, host: str, port: int, expose: bool, write_store: str | None, read_store: str | None, as_json: bool
) -> int:
    """Serve an app over HTTP, with its pages and the console.

    MODULE:APP names it: `app:app` is the `app` in app.py of this folder. SIGTERM and Ctrl-C let requests under way
    finish, and end with 0; a second one does not wait.
    """
    log_to_stderr()
    app = load_app(target, write_store=write_store, read_store=read_store)

    def started(url: str) -> None:
        if as_json:
            emit(addresses(app, url))
        else:
            tell(target, app, url)

    run(app, host=host, port=port, expose=expose, mounts={"/console": console_of(app)}, started=started)
    if not as_json:
        click.echo("Stopped.")
    return Exit.OK


def log_to_stderr() -> None:
    """Let warnings be seen."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def addresses(app: App, url: str) -> dict[str, object]:
    """Where everything is."""
    return {
        "url": url,
        "pages": f"{url}/" if app.pages is not None else None,
        "console": f"{url}/console/",
        "docs": f"{url}/docs",
        "write_store": without_password(app.settings.write_store),
        "read_store": without_password(app.settings.read_store),
        "pid": os.getpid(),
    }


def console_of(app: App) -> ASGIApp:
    """The console, linked with the app's own pages where it has any."""
    return console(home="/" if app.pages is not None else None)


def tell(name: str, app: App, url: str, *, err: bool = False) -> None:
    """Say where everything is, on standard error where standard output is for programs."""
    pages = [("pages", f"{url}/")] if app.pages is not None else []
    click.echo(f"{name} is up. Ctrl-C stops it.", err=err)
    for label, place in (
        *pages,
        ("console", f"{url}/console/"),
        ("API", f"{url}/docs"),
        ("log", shown(app.settings.write_store)),
        ("read store", shown(app.settings.read_store)),
    ):
        click.echo(f"  {label:<8} {place}", err=err)
