"""Where settings come from beside code: `TWOFOLD_*` variables, and a file. Unknown names are refused."""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from twofold.errors import WiringError

PREFIX = "TWOFOLD_"
FILE = "twofold.toml"
PYPROJECT = "pyproject.toml"

SERVER_VARIABLES = frozenset(
    "host port allow_host allow_origin allow_credentials proxy root_path access_log log_level log_format".split()
)
"""The options of the command line that are environment variables and keys of the file too."""

CLIENT_VARIABLES = frozenset({"token"})
"""The environment variables of commands that send requests to a running server."""

_OF_CONTAINERS = re.compile(r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.+)?)")
_LINK = re.compile(r"(?:tcp|udp|sctp)://")


def variables(known: Iterable[str]) -> dict[str, str]:
    """The values of the variables that are set, by name without `TWOFOLD_`. WiringError for one that is not `known`."""
    given = {name.removeprefix(PREFIX).lower(): text for name, text in os.environ.items() if _is_ours(name, text)}
    names = {*known, *SERVER_VARIABLES, *CLIENT_VARIABLES}
    for name in given:
        if name not in names:
            close = _closest(name, names)
            instead = f" Did you mean {PREFIX}{close.upper()}?" if close else ""
            raise WiringError(
                f"The environment variable {PREFIX}{name.upper()} is not a setting.{instead} Unset it, or name "
                "one of those in docs/reference/settings.md."
            )
    return given


def file_values(known: Iterable[str]) -> tuple[Mapping[str, Any], str]:
    """What the file in the current folder sets, and how the file is called.

    It is `twofold.toml`, or the table `[tool.twofold]` of `pyproject.toml`. WiringError where both are there, where it
    cannot be read, or where a name is not `known`.
    """
    own, project = _table(Path(FILE)), _table(Path(PYPROJECT)).get("tool", {}).get("twofold")
    if own and project is not None:
        raise WiringError(f"There are settings in {FILE} and in [tool.twofold] of {PYPROJECT}. Keep one of them.")
    values, where = (own, FILE) if project is None else (project, f"[tool.twofold] of {PYPROJECT}")
    if not isinstance(values, dict):
        raise WiringError(f"{where} is not a table.")
    names = {*known, *SERVER_VARIABLES}
    for name in cast("dict[str, Any]", values):
        if name not in names:
            close = _closest(name.replace("-", "_"), names)
            instead = f" Did you mean {close}?" if close else ""
            raise WiringError(f"{where} sets '{name}', which is not a setting.{instead}")
    return cast("dict[str, Any]", values), where


def _is_ours(name: str, text: str) -> bool:
    """Whether a variable is meant for Twofold. Container platforms set some for services named like it."""
    if not name.startswith(PREFIX):
        return False
    return not _OF_CONTAINERS.fullmatch(name.removeprefix(PREFIX)) and not _LINK.match(text)


def _closest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, sorted(names), 1, 0.6)), None)


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WiringError(f"{path} cannot be read: {error}.") from error
