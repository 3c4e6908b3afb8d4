"""`twofold check`: whether an app can be deployed: its wiring, settings, HTTP API, stores and log."""

import asyncio
import platform
from collections.abc import Callable
from importlib.metadata import version

import click

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app
from twofold.cli.output import Exit, columns, emit, printable
from twofold.cli.store_access import StoreUrls, store_options
from twofold.errors import TwofoldError
from twofold.http import asgi
from twofold.operations.app_check import Finding, check_stores


def _wiring(app: App) -> str:
    wiring = app.wiring
    counts = {
        "command": len(wiring.commands),
        "query": len(app.queries.by_name),
        "event": len(wiring.events),
        "projection": len(wiring.projections),
        "policy": len(wiring.policies),
    }
    return f"{len(wiring.modules)} modules with " + ", ".join(f"{name} types: {n}" for name, n in counts.items()) + "."


def _http(app: App) -> str:
    asgi(app)
    return "Every message can be sent over HTTP."


def _versions(_: App) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("twofold", "msgspec", "starlette", "uvicorn"))
    return f"{packages}, {platform.python_implementation()} {platform.python_version()}."


CHECKS: dict[str, Callable[[App], str]] = {"wiring": _wiring, "http": _http, "versions": _versions}
"""The checks that need no store: each says what it found, or raises the error of the app."""


@click.command
@app_argument
@store_options
@click.option("--no-stores", is_flag=True, help="Check the code only, where no store can be reached.")
@json_option
def command(target: str, urls: StoreUrls, no_stores: bool, as_json: bool) -> int:
    """Check whether an app can be deployed, and change nothing.

    Checks the module and its wiring, the settings, that every message can be sent over HTTP, that both stores can be
    read, that this code reads what is in the log, and which read models it will build. Exits with 2 if the module or a
    setting is wrong, with 3 if another check found a problem, and with 4 if a store cannot be reached.
    """
    app = load_app(target, urls)
    findings = [_checked(name, check, app) for name, check in CHECKS.items()]
    if not no_stores:
        findings += asyncio.run(check_stores(app))
    if as_json:
        emit({"findings": findings})
    else:
        for line in columns([[each.outcome, each.check, printable(each.message)] for each in findings]):
            click.echo(line)
    outcomes = {each.outcome for each in findings}
    if "problem" in outcomes:
        return Exit.UNHEALTHY
    return Exit.UNAVAILABLE if "unavailable" in outcomes else Exit.OK


def _checked(name: str, check: Callable[[App], str], app: App) -> Finding:
    try:
        return Finding(name, "ok", check(app))
    except TwofoldError as error:
        return Finding(name, "problem", str(error))
