"""Which paths a process serves, by its roles."""

from collections.abc import Mapping, Sequence

from twofold.roles import Role, Roles

_ROLES_OF: Mapping[str, Sequence[Role]] = {
    "commands": ("command",),
    "queries": ("query",),
    "projections": ("console",),
    "log": ("console",),
    "console": ("console",),
    "events": ("console", "query"),
}
"""The roles of which a process needs one to serve paths, by their first word. All processes serve the others."""


def serves(roles: Roles, path: str) -> bool:
    """Whether a process with these roles serves a path of the API."""
    wanted = _ROLES_OF.get(_first_word(path), ())
    return not wanted or any(role in roles for role in wanted)


def refuse_path(roles: Roles, path: str) -> None:
    """RoleAbsent, naming the role, where only processes with other roles serve a path of the API."""
    if not serves(roles, path):
        word = _first_word(path)
        roles.refuse_without(_ROLES_OF[word][0], f"/{word}")


def serves_pages(roles: Roles) -> bool:
    """Whether a process serves the pages of its app: they send commands and ask queries in their own process."""
    return "command" in roles and "query" in roles


def refuse_page(roles: Roles) -> None:
    """RoleAbsent where the pages of an app are not served."""
    roles.refuse_without("command", "A page of the app")
    roles.refuse_without("query", "A page of the app")


def _first_word(path: str) -> str:
    return path.partition("/")[2].partition("/")[0]
