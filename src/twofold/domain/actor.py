"""The actor: who sends a command, asks a query or acts as an operator."""

from collections.abc import Mapping
from typing import Any

import msgspec

from twofold.errors import InvalidMessage

MAX_NAME = 200
"""Characters of an actor's name."""


class Actor(msgspec.Struct, frozen=True, gc=False):
    """Who does something. `name` is stored with events and operators' actions, so it must stay the same for one person.

    `roles` say what the actor may do (see `Allow`). `tenant` is the customer that the actor belongs to, where one
    system serves several. `claims` are what else the login knows, for the app's own rules: they are not stored.
    ValueError where the name is empty, too long, or not printable, or the roles are a text.
    """

    name: str
    roles: frozenset[str] = frozenset()
    tenant: str | None = None
    claims: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise ValueError(f"The name of an actor has 1 to {MAX_NAME} printable characters, not {self.name!r:.100}.")

        roles: Any = self.roles
        if isinstance(roles, str):
            raise ValueError(f"The roles of an actor are a set, not the text {roles!r:.100}.")
        if not isinstance(roles, frozenset):
            msgspec.structs.force_setattr(self, "roles", frozenset(roles))

    def __str__(self) -> str:
        return self.name


def actor_of(given: Actor | str | None) -> Actor | None:
    """An actor as callers may give it: a name stands for an actor without roles. InvalidMessage where it is none."""
    if not isinstance(given, str):
        return given
    try:
        return Actor(given)
    except ValueError as error:
        raise InvalidMessage(str(error), field="actor") from error


def sender_of(actor: Actor | None) -> str:
    """A text that differs for different actors; empty where nobody is known."""
    return "" if actor is None else f"{len(actor.name)}:{actor.name}{actor.tenant or ''}"


def name_of(actor: Actor | None) -> str | None:
    """The name that is stored; None where nobody is known."""
    return None if actor is None else actor.name
