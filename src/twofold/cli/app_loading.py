"""In charge of what a command works on: the app that `module:attribute` names, and the stores that URLs name."""

import math
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import click
import msgspec

from twofold.app import App
from twofold.domain.module import Module
from twofold.errors import WiringError

store_option = click.option(
    "--write-store", metavar="URL", help="The write store. [default: TWOFOLD_WRITE_STORE or sqlite:///data/log.db]"
)
views_option = click.option(
    "--read-store", metavar="URL", help="The read store. [default: TWOFOLD_READ_STORE or sqlite:///data/views.db]"
)
port_option = click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)


class Number(click.FloatRange):
    """A number within a range, and finite: what is no number is in no range, but compares as if it were."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
app_argument = click.argument("target", metavar="MODULE:APP")


def load_app(target: str, *, write_store: str | None = None, read_store: str | None = None) -> App:
    """The app that `module:attribute` names, not started, with other stores where URLs are given.

    The present folder is looked into first. WiringError, with the cure, where there is no such app.
    """
    name, _, attribute = target.partition(":")
    if not attribute or not all(part.isidentifier() for part in (*name.split("."), attribute)):
        raise WiringError(f"'{target}' does not name an app. Write MODULE:APP: `app:app` is the `app` in app.py.")
    if name.endswith(".py"):
        raise WiringError(f"'{target}' names a file. Write the module: {name.removesuffix('.py')}:{attribute}.")
    found = getattr(_module(name), attribute, None)
    if not isinstance(found, App):
        raise WiringError(_not_an_app(target, sys.modules[name], attribute, found))
    given = {key: url for key, url in (("write_store", write_store), ("read_store", read_store)) if url is not None}
    found.settings = msgspec.structs.replace(found.settings, **given)
    return found


def refuse_memory(url: str, option: str) -> None:
    """UsageError where a store is meant to be read beside its process, but lives inside of it."""
    if url.startswith("memory:"):
        raise click.BadOptionUsage(
            option,
            f"A store {url} lives inside the process that made it. Ask that, at /events and /status.",
        )


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise WiringError(
                f"There is no module '{name}' in {here}, and none is installed. Go to the folder where "
                f"{name.replace('.', os.sep)}.py is, or install it."
            ) from error
        raise WiringError(f"'{name}' cannot be imported: {error}. Install what it imports.") from error


def _not_an_app(target: str, module: ModuleType, attribute: str, found: object) -> str:
    apps = [f"{module.__name__}:{name}" for name, value in vars(module).items() if isinstance(value, App)]
    instead = f" Did you mean {' or '.join(apps)}?" if apps else " Make one: `app = App(your_module)`."
    if isinstance(found, Module):
        return f"{target} is a module of a domain, not an app. Put it into one: `app = App({attribute})`."
    if hasattr(module, attribute):
        return f"{target} is no App but {type(found).__name__}.{instead}"
    return f"There is no '{attribute}' in {module.__name__} ({module.__file__}).{instead}"
