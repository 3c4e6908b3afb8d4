"""The roles of a process: which parts of an app it runs, and which stores it needs for them."""

from collections.abc import Collection, Iterator
from typing import Literal, get_args

from twofold.errors import InvalidMessage, RoleAbsent, WiringError

Role = Literal["command", "query", "sync", "console"]
"""`command` takes commands, `query` answers queries, `sync` runs projections and policies, `console` is for operators.
"""

_ALL: tuple[Role, ...] = get_args(Role)
ALL_ROLES = ",".join(_ALL)
_FILES = ("sqlite", "memory")


class Roles(Collection[str]):
    """The roles of one process, from text: `command,query`. WiringError for a role that there is not, and for none."""

    def __init__(self, text: str) -> None:
        given = [word.strip() for word in text.split(",") if word.strip()]
        unknown = [word for word in given if word not in _ALL]
        if unknown or not given:
            what = f"There is no role '{unknown[0]}'" if unknown else "No role is named"
            raise WiringError(f"{what}. Name one or more of {', '.join(_ALL)} in `--roles` (or TWOFOLD_ROLES).")
        self._names = tuple(role for role in _ALL if role in given)

    def __contains__(self, role: object) -> bool:
        return role in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __str__(self) -> str:
        return ",".join(self._names)

    @property
    def handle_commands(self) -> bool:
        """Whether commands are decided in this process: those of callers, or those of policies."""
        return "command" in self or "sync" in self

    def refuse_without(self, role: Role, what: str) -> None:
        """RoleAbsent, naming the role, where this process does not have it."""
        if role not in self:
            raise RoleAbsent(
                f"{what} needs the role '{role}', and this process has only: {self}. Send it to a process with that "
                "role."
            )

    def refuse_to_wait(self, name: str, kind: str, read_store: str) -> None:
        """InvalidMessage where a command is to wait for a follower whose checkpoints this process cannot read."""
        if kind == "projection" and "sync" not in self and _scheme(read_store) == "memory":
            raise InvalidMessage(
                f"This process cannot tell how far '{name}' is: its read store is in memory. Start it with the "
                "`--read-store` of the processes with the role `sync`, or leave out `wait_for`.",
                field="wait_for",
            )

    def check_stores(self, write_store: str, read_store: str) -> None:
        """WiringError, with the cure, where these roles cannot work on stores with these URLs."""
        if _scheme(write_store) == "memory" and not {"command", "query", "sync"} <= set(self):
            raise WiringError(
                "A write store in memory exists only inside its process, so that process needs all roles. Leave out "
                "`--roles`, or name a file or a server with `--write-store`."
            )
        if _scheme(read_store) == "memory" and ("query" in self) != ("sync" in self):
            raise WiringError(
                "A read store in memory exists only inside its process, so `query` and `sync` must be roles of the "
                "same process. Name both, or name a file or a server with `--read-store`."
            )
        if _scheme(write_store) in _FILES and "console" in self and not self.handle_commands:
            raise WiringError(
                "A log in SQLite is written by one process, and operators' requests are written to the log. Give the "
                "role `console` to the process that has `command` or `sync`, or use a log in PostgreSQL."
            )


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()
