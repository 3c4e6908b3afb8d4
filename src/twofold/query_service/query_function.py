"""Query functions: the signature of each, read and checked once at start."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_origin, is_typeddict

from twofold.domain.actor import Actor
from twofold.domain.events import kebab_case
from twofold.domain.module import check_message
from twofold.domain.type_hints import hints_of, union_members, without_none
from twofold.errors import WiringError
from twofold.query_service.view import View


class QueryFunction(NamedTuple):
    """A query function and its signature: the query, the answer's type, the projection of each view."""

    name: str
    function: Callable[..., Any]
    query: type
    returns: Any
    views: Mapping[str, str]
    classes: tuple[type, ...] = ()
    """What the answer is an instance of; empty where the hint does not say."""
    actor: str | None = None
    """The parameter that gets the actor, if there is one."""
    needs_actor: bool = False
    """Whether that parameter cannot be None: a caller must be logged in."""


def read_query_function(function: Callable[..., Any], by_row: Mapping[type, list[str]]) -> QueryFunction:
    """The signature of a query function. WiringError, with the cure, where it does not fit the read models."""
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise WiringError(f"{name} answers a query and must be `async def`.")
    hints = hints_of(function, name)
    parameters = list(inspect.signature(function).parameters)
    if not parameters or any(p not in hints for p in parameters) or "return" not in hints:
        raise WiringError(
            f"{name}: annotate every parameter and the answer, e.g. `(query: Q, rows: View[Row]) -> list[Row]`."
        )
    query = hints[parameters[0]]
    check_message(query, "query")
    returns, actor, views = hints["return"], None, {}
    for parameter in parameters[1:]:
        if without_none(hints[parameter]) == (Actor,):
            actor = parameter
        else:
            views[parameter] = _projection_of(name, parameter, hints[parameter], by_row)
    return QueryFunction(
        name=kebab_case(query.__name__),
        function=function,
        query=query,
        returns=returns,
        views=views,
        classes=_classes_of(returns),
        actor=actor,
        needs_actor=actor is not None and hints[actor] is Actor,
    )


def _classes_of(hint: Any) -> tuple[type, ...]:
    """The classes of the values of a hint; empty if it has a part that is no class."""
    classes: list[Any] = [get_origin(member) or member for member in union_members(hint)]
    if not all(inspect.isclass(each) and _can_be_checked(each) for each in classes):
        return ()
    # An int is welcome where a float is expected.
    return (*classes, int) if float in classes else tuple(classes)


def _can_be_checked(kind: type) -> bool:
    return kind.__module__ != "typing" and not is_typeddict(kind) and not getattr(kind, "_is_protocol", False)


def shown(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) and get_origin(hint) is None else str(hint)


def _projection_of(name: str, parameter: str, hint: Any, by_row: Mapping[type, list[str]]) -> str:
    if get_origin(hint) is not View:
        raise WiringError(
            f"{name}: parameter '{parameter}' must be a View[Row] of a projection's row type, or an Actor."
        )
    (row,) = get_args(hint)
    projections = by_row.get(row, [])
    if len(projections) != 1:
        named = ", ".join(projections) or "none"
        raise WiringError(
            f"{name}: View[{row.__name__}] must mean one projection, but these fold {row.__name__}: {named}. "
            "List a projection with that row type, and give each projection another row type."
        )
    return projections[0]
