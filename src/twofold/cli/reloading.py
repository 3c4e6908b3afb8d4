"""`twofold serve --reload`: the server as a process of its own, which is started again when code changes."""

import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from twofold.cli.output import Exit
from twofold.errors import WiringError

SUFFIXES = (".py", ".html", ".css", ".js", ".toml")
_STOP_SECONDS = 70
"""How long the server may take to stop: as long as `serve` may wait for requests in progress, and some more."""


def serve_again_on_changes(arguments: Sequence[str]) -> int:
    """Run `twofold` with these arguments but `--reload`, again after each change, until a signal stops this process.

    WiringError where watchfiles is not installed.
    """
    try:
        watchfiles = import_module("watchfiles")
    except ModuleNotFoundError as error:
        raise WiringError("--reload needs watchfiles. Install it: pip install 'twofold[reload]'.") from error
    # It leaves out caches, environments and temporary files.
    usual: Callable[[Any, str], bool] = watchfiles.DefaultFilter()

    def is_source(change: Any, path: str) -> bool:
        return path.endswith(SUFFIXES) and usual(change, path)

    command = [sys.executable, "-m", "twofold", *(word for word in arguments if word != "--reload")]
    watchfiles.run_process(
        ".",
        target=shlex.join(command),
        target_type="command",
        watch_filter=is_source,
        sigint_timeout=_STOP_SECONDS,
    )
    return Exit.OK
