"""Security in the description of the API: how callers log in, and which role each operation needs."""

from typing import Any

from twofold.access.authentication import Authentication
from twofold.access.rules import ANYONE, INSPECT, LOGGED_IN, METRICS, PUBLIC, READ_LOG, AccessRules, Right

Json = dict[str, Any]

_OF_PATHS = {
    "/events": READ_LOG,
    "/log": INSPECT,
    "/log/move": Right("operate", "move-log"),
    "/status": INSPECT,
    "/metrics": METRICS,
    "/projections": INSPECT,
}
_READ_OF_ONE = frozenset({"{name}", "actions", "parked"})


def add_security(document: Json, access: AccessRules, authentication: Authentication) -> None:
    """Add the security schemes, and to each operation its requirements and the roles that have the right to it."""
    if authentication:
        document["components"]["securitySchemes"] = authentication.schemes
    if access.is_open:
        return
    requirements: list[dict[str, list[str]]] = [{scheme: []} for scheme in authentication.schemes]
    for path, operations in document["paths"].items():
        right = right_of(path)
        roles = access.roles_for(right)
        anonymous = right == PUBLIC or ANYONE in roles
        for operation in operations.values():
            operation["security"] = [] if anonymous else requirements
            if not anonymous:
                operation["x-roles"] = ["(any)" if role == LOGGED_IN else role for role in roles]
                problem = operation["responses"]["403"]
                operation["responses"]["401"] = {**problem, "description": "Log in first."}


def right_of(path: str) -> Right:
    """The right that a path of the description needs."""
    if path in _OF_PATHS:
        return _OF_PATHS[path]
    first, *rest = path.strip("/").split("/")
    last = rest[-1] if rest else ""
    match first:
        case "commands":
            return Right("command", last)
        case "queries":
            return Right("query", last)
        case "projections":
            return INSPECT if last in _READ_OF_ONE else Right("operate", last)
        case _:
            return PUBLIC
