"""Roles: what can be named, and which stores each of them can work on."""

import pytest

from twofold.errors import InvalidMessage, RoleAbsent, WiringError
from twofold.roles import ALL_ROLES, Roles

FILE, SERVER, MEMORY = "sqlite:///log.db", "postgresql://db/shop", "memory:"


def test_roles_are_read_in_any_order_and_shown_in_one() -> None:
    assert str(Roles(" sync, command,sync ")) == "command,sync"
    assert str(Roles(ALL_ROLES)) == ALL_ROLES == "command,query,sync,console"
    assert "query" in Roles("query")
    assert "query" not in Roles("command")


@pytest.mark.parametrize(("text", "what"), [("query,write", "no role 'write'"), ("", "No role"), (" , ", "No role")])
def test_a_role_that_there_is_not_is_refused_with_those_that_there_are(text: str, what: str) -> None:
    with pytest.raises(WiringError, match=f"{what}.*command, query, sync, console.*--roles"):
        Roles(text)


def test_what_lacks_its_role_is_refused_and_the_role_is_named() -> None:
    Roles("query").refuse_without("query", "A query")
    with pytest.raises(RoleAbsent, match="A command needs the role 'command', and this process has only: query,sync"):
        Roles("query,sync").refuse_without("command", "A command")


@pytest.mark.parametrize(
    ("roles", "write_store", "read_store", "cure"),
    [
        ("command", MEMORY, SERVER, "Leave out `--roles`"),
        ("command,query", MEMORY, MEMORY, "Leave out `--roles`"),
        ("query", SERVER, MEMORY, "--read-store"),
        ("sync", SERVER, MEMORY, "--read-store"),
        ("query,console", FILE, FILE, "Give the role `console` to the process that has `command` or `sync`"),
        ("console", FILE, SERVER, "PostgreSQL"),
    ],
)
def test_stores_that_roles_cannot_work_on_are_refused_with_the_cure(
    roles: str, write_store: str, read_store: str, cure: str
) -> None:
    with pytest.raises(WiringError, match=cure):
        Roles(roles).check_stores(write_store, read_store)


@pytest.mark.parametrize(
    ("roles", "write_store", "read_store"),
    [
        (ALL_ROLES, MEMORY, MEMORY),
        ("command,query,sync", MEMORY, MEMORY),
        ("query,sync", SERVER, MEMORY),
        ("command", SERVER, MEMORY),
        ("query", FILE, FILE),
        ("sync,console", FILE, FILE),
        ("console", SERVER, FILE),
    ],
)
def test_all_others_are_allowed(roles: str, write_store: str, read_store: str) -> None:
    Roles(roles).check_stores(write_store, read_store)


def test_a_command_cannot_wait_for_a_projection_whose_checkpoints_are_in_the_memory_of_another_process() -> None:
    with pytest.raises(InvalidMessage, match=r"how far 'totals' is.*`--read-store`") as refused:
        Roles("command").refuse_to_wait("totals", "projection", MEMORY)
    assert refused.value.field == "wait_for"
    Roles("command").refuse_to_wait("mails", "policy", MEMORY)
    Roles("command,sync").refuse_to_wait("totals", "projection", MEMORY)
    Roles("command").refuse_to_wait("totals", "projection", FILE)
