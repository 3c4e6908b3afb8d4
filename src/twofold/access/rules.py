"""Access rules: which role may send which command, ask which query, and do what operators do. All else is denied."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from twofold.domain.actor import Actor
from twofold.errors import NotAuthenticated, NotAuthorised, WiringError

ANYONE: Final = "*"
"""The role of every caller, also of one that is not logged in."""

LOGGED_IN: Final = "+"
"""The role of every caller that is logged in."""

ALL: Final = "all"
"""In a rule: all commands, all queries, or all operator actions."""

OPERATOR_ACTIONS: Final = frozenset(
    "rebuild switch switch-back drop retry skip repair pause resume split merge move-log".split()
)
"""What operators do to projections, policies and the log."""

RightKind = Literal["public", "command", "query", "operate", "inspect", "metrics", "read_log"]


class Right(msgspec.Struct, frozen=True, gc=False):
    """What a request needs. `name` is the command, the query or the operator action; the other kinds have none."""

    kind: RightKind
    name: str = ""

    def __str__(self) -> str:
        return _TEXTS[self.kind].format(self.name)


_TEXTS: Mapping[RightKind, str] = {
    "public": "reading what is public",
    "command": "sending the command '{}'",
    "query": "asking the query '{}'",
    "operate": "the operator action '{}'",
    "inspect": "looking at the state of the system",
    "metrics": "reading the metrics",
    "read_log": "reading the log",
}

PUBLIC = Right("public")
INSPECT = Right("inspect")
METRICS = Right("metrics")
READ_LOG = Right("read_log")

Messages = Sequence[type] | Literal["all"]


class Allow:
    """A rule: callers with `role` may send these commands, ask these queries, and do these operator actions.

    `role` is a name of your own, `ANYONE` or `LOGGED_IN`. `commands` and `queries` are lists of types, or `ALL`.
    `operate` lists operator actions (`"pause"`, `"retry"`, …), or is `ALL`. `inspect`: they see the status, the
    projections, what is parked and why, and the metrics. `metrics`: they see the metrics, which name no data.
    `read_log`: they read all events.
    """

    def __init__(
        self,
        role: str,
        *,
        commands: Messages = (),
        queries: Messages = (),
        operate: Sequence[str] | Literal["all"] = (),
        inspect: bool = False,
        metrics: bool = False,
        read_log: bool = False,
    ) -> None:
        self.role = role
        self.commands = _listed("commands", commands)
        self.queries = _listed("queries", queries)
        self.operate = _listed("operate", operate)
        self.inspect = inspect
        self.metrics = metrics or inspect
        self.read_log = read_log


class AccessRules:
    """The rules of an app, by right.

    `commands` and `queries` are those that callers can reach, by name. With `rules` None nothing was said: everything
    is allowed to everybody, and the app is served on loopback addresses only. WiringError for a rule that names what
    the app does not have.
    """

    def __init__(
        self, rules: Iterable[Allow] | None, commands: Mapping[str, type], queries: Mapping[str, type]
    ) -> None:
        if isinstance(rules, Allow):
            raise WiringError("access=… takes a list: access=[Allow(…)].")
        self.is_open = rules is None
        self._roles: dict[Right, set[str]] = {}
        self._rights = [
            *(Right("command", name) for name in commands),
            *(Right("query", name) for name in queries),
        ]
        for rule in rules or ():
            self._add(rule, commands, queries)

    def check(self, actor: Actor | None, right: Right) -> None:
        """NotAuthenticated or NotAuthorised where this caller has not the right."""
        if not self.allows(actor, right):
            if actor is None:
                raise NotAuthenticated(f"{str(right).capitalize()} needs a login. Send `Authorization: Bearer …`.")
            raise NotAuthorised(f"'{actor.name}' has no role that allows {right}.")

    def allows(self, actor: Actor | None, right: Right) -> bool:
        """Whether this caller has the right. Nobody has one that no rule gives."""
        if self.is_open or right.kind == "public":
            return True
        roles = self._roles.get(right)
        if roles is None:
            return False
        if ANYONE in roles:
            return True
        return actor is not None and (LOGGED_IN in roles or not actor.roles.isdisjoint(roles))

    def roles_for(self, right: Right) -> list[str]:
        """The roles that have a right, in order; `ANYONE` and `LOGGED_IN` among them."""
        return sorted(self._roles.get(right, ()))

    @property
    def uncovered(self) -> list[str]:
        """The commands and queries for which no rule exists."""
        return [f"{right.kind} '{right.name}'" for right in self._rights if right not in self._roles]

    def _add(self, rule: Allow, commands: Mapping[str, type], queries: Mapping[str, type]) -> None:
        role: Any = rule.role
        if not isinstance(role, str) or not role or (role not in (ANYONE, LOGGED_IN) and not role.isprintable()):
            raise WiringError(f"Allow({role!r}): a role is a name, ANYONE or LOGGED_IN.")
        rights: list[Right] = [
            *(Right("command", name) for name in _names(rule, "commands", rule.commands, commands)),
            *(Right("query", name) for name in _names(rule, "queries", rule.queries, queries)),
        ]
        operate = OPERATOR_ACTIONS if rule.operate == ALL else rule.operate
        for action in operate:
            if action not in OPERATOR_ACTIONS:
                known = ", ".join(sorted(OPERATOR_ACTIONS))
                raise WiringError(f"Allow({role!r}): '{action}' is no operator action. Use some of: {known}.")
            rights.append(Right("operate", action))
        rights += [INSPECT] * rule.inspect + [METRICS] * rule.metrics + [READ_LOG] * rule.read_log
        for right in rights:
            self._roles.setdefault(right, set()).add(role)


def _listed(name: str, given: Any) -> tuple[object, ...] | str:
    if isinstance(given, str) and given != ALL:
        raise WiringError(f"Allow({name}={given!r}): give a list, or ALL.")
    if isinstance(given, type):
        raise WiringError(f"Allow({name}={given.__name__}): give a list: {name}=[{given.__name__}].")
    if not isinstance(given, str) and not isinstance(given, Iterable):
        raise WiringError(f"Allow({name}={given!r}): give a list, or ALL.")
    return given if isinstance(given, str) else tuple(cast("Iterable[object]", given))


def _names(rule: Allow, field: str, chosen: tuple[object, ...] | str, known: Mapping[str, type]) -> list[str]:
    if chosen == ALL:
        return list(known)
    by_type: dict[object, str] = {kind: name for name, kind in known.items()}
    for message in chosen:
        if message not in by_type:
            shown = getattr(message, "__name__", repr(message))
            raise WiringError(
                f"Allow({rule.role!r}, {field}=[…]): {shown} is none of the {field} that callers can reach. List it in "
                "a module, and not as internal."
            )
    return [by_type[message] for message in chosen]
