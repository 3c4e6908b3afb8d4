"""The app that a command works on, named as `module:attribute`, and the options that several commands share."""

import math
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import click
import msgspec

from twofold.app import App
from twofold.cli.store_access import StoreUrls
from twofold.cli.user_errors import UserCodeFailed
from twofold.domain.module import Module
from twofold.errors import TwofoldError, WiringError
from twofold.settings import Settings

port_option = click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
app_argument = click.argument("target", metavar="MODULE:APP")


class Number(click.FloatRange):
    """A finite number within a range. The range alone would accept `nan`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def load_app(target: str, urls: StoreUrls) -> App:
    """The app that `module:attribute` names, not started, with other stores where `urls` name them.

    The current folder is searched first. WiringError where there is no such app; it says what to do.
    """
    name, _, attribute = target.partition(":")
    if not attribute or not all(part.isidentifier() for part in (*name.split("."), attribute)):
        raise WiringError(f"'{target}' does not name an app. Write MODULE:APP: `app:app` is the `app` in app.py.")
    if name.endswith(".py"):
        raise WiringError(f"'{target}' names a file. Write the module: {name.removesuffix('.py')}:{attribute}.")
    app = getattr(_module(name), attribute, None)
    if not isinstance(app, App):
        raise WiringError(_not_an_app(target, sys.modules[name], attribute, app))
    given = {setting: url for setting, url in urls._asdict().items() if url is not None}
    app.settings = msgspec.structs.replace(app.settings, **given)
    return app


def load_app_or_settings(target: str | None, urls: StoreUrls) -> tuple[App | None, Settings]:
    """The app, if `target` names one, and its settings; else the settings of the environment."""
    app = load_app(target, urls) if target else None
    return app, app.settings if app else urls.settings()


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise WiringError(
                f"There is no module '{name}' in {here}, and none is installed. Go to the folder that contains "
                f"{name.replace('.', os.sep)}.py, or install the module."
            ) from error
        raise WiringError(f"'{name}' cannot be imported: {error}. Install what it imports.") from error
    except TwofoldError:
        raise
    except Exception as error:
        raise UserCodeFailed(f"The module '{name}'", error) from error


def _not_an_app(target: str, module: ModuleType, attribute: str, value: object) -> str:
    apps = [f"{module.__name__}:{name}" for name, value in vars(module).items() if isinstance(value, App)]
    instead = f" Did you mean {' or '.join(apps)}?" if apps else " Create one: `app = App(your_module)`."
    if isinstance(value, Module):
        return f"{target} is a Module, not an App. Create an app with it: `app = App({attribute})`."
    if hasattr(module, attribute):
        return f"{target} is not an App, but of type {type(value).__name__}.{instead}"
    return f"There is no '{attribute}' in {module.__name__} ({module.__file__}).{instead}"
