"""Access rules: what no rule allows is denied, and a rule that cannot be meant is refused at start."""

from typing import Any

import pytest

from tests.sample_domains.bank import BalanceOf, Close, Deposit, Transfer
from twofold.access import ALL, ANYONE, LOGGED_IN, AccessRules, Allow
from twofold.access.rules import INSPECT, OPERATOR_ACTIONS, PUBLIC, READ_LOG, Right
from twofold.domain.actor import Actor
from twofold.errors import NotAuthenticated, NotAuthorised, WiringError

COMMANDS = {"deposit": Deposit, "close": Close}
QUERIES = {"balance-of": BalanceOf}
CLERK = Actor("ann", frozenset({"clerk"}))
STRANGER = Actor("ben")


def rules(*given: Allow) -> AccessRules:
    return AccessRules(given, COMMANDS, QUERIES)


def test_without_rules_everything_is_allowed_to_everybody() -> None:
    access = AccessRules(None, COMMANDS, QUERIES)
    assert access.is_open and access.allows(None, Right("command", "close"))


def test_what_no_rule_allows_is_denied() -> None:
    access = rules()
    for right in (Right("command", "deposit"), Right("query", "balance-of"), INSPECT, READ_LOG):
        with pytest.raises(NotAuthorised, match="'ann' has no role that allows"):
            access.check(CLERK, right)
        with pytest.raises(NotAuthenticated, match="needs a login"):
            access.check(None, right)
    access.check(None, PUBLIC)


def test_a_role_has_the_rights_of_its_rules_and_no_others() -> None:
    access = rules(Allow("clerk", commands=[Deposit]), Allow("clerk", queries=ALL), Allow("teller", commands=ALL))
    access.check(CLERK, Right("command", "deposit"))
    access.check(CLERK, Right("query", "balance-of"))
    assert not access.allows(CLERK, Right("command", "close"))
    assert not access.allows(STRANGER, Right("command", "deposit"))
    assert access.roles_for(Right("command", "deposit")) == ["clerk", "teller"]


def test_a_right_of_anyone_needs_no_login_and_one_of_all_who_are_logged_in_needs_no_role() -> None:
    access = rules(Allow(ANYONE, queries=ALL), Allow(LOGGED_IN, commands=[Deposit]))
    access.check(None, Right("query", "balance-of"))
    access.check(STRANGER, Right("command", "deposit"))
    with pytest.raises(NotAuthenticated):
        access.check(None, Right("command", "deposit"))


@pytest.mark.parametrize("role", [ANYONE, LOGGED_IN])
def test_an_actor_does_not_get_the_rights_of_others_by_a_role_named_like_a_word_of_rules(role: str) -> None:
    access = rules(Allow("clerk", commands=ALL))
    assert not access.allows(Actor("eve", frozenset({role, "all"})), Right("command", "close"))


def test_operator_actions_are_allowed_one_by_one() -> None:
    access = rules(Allow("night", operate=["pause", "resume"]), Allow("admin", operate=ALL, inspect=True))
    night = Actor("ned", frozenset({"night"}))
    assert {action for action in OPERATOR_ACTIONS if access.allows(night, Right("operate", action))} == {
        "pause",
        "resume",
    }
    admin = Actor("ada", frozenset({"admin"}))
    assert all(access.allows(admin, Right("operate", action)) for action in OPERATOR_ACTIONS)
    assert access.allows(admin, INSPECT) and not access.allows(admin, READ_LOG)


def test_messages_without_a_rule_are_listed() -> None:
    assert rules(Allow("clerk", commands=[Deposit])).uncovered == ["command 'close'", "query 'balance-of'"]
    assert rules(Allow("clerk", commands=ALL, queries=ALL)).uncovered == []


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        (lambda: rules(Allow("clerk", commands=[Transfer])), "Transfer is none of the commands"),
        (lambda: rules(Allow("clerk", queries=[Deposit])), "Deposit is none of the queries"),
        (lambda: rules(Allow("clerk", commands=["deposit"])), "'deposit' is none of the commands"),  # type: ignore[list-item]
        (lambda: rules(Allow("clerk", operate=["stop"])), "'stop' is no operator action. Use some of: drop,"),
        (lambda: rules(Allow("", commands=ALL)), "a role is a name"),
        (lambda: Allow("clerk", commands="deposit"), "give a list, or ALL"),  # type: ignore[arg-type]
        (lambda: Allow("clerk", operate=True), "give a list, or ALL"),  # type: ignore[arg-type]
        (lambda: AccessRules(Allow("clerk"), COMMANDS, QUERIES), "takes a list"),  # type: ignore[arg-type]
        (lambda: Allow("clerk", commands=Deposit), r"give a list: commands=\[Deposit\]"),  # type: ignore[arg-type]
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_the_cure(wrong: object, cure: str) -> None:
    assert callable(wrong)
    with pytest.raises(WiringError, match=cure):
        wrong()


def test_the_roles_of_an_actor_become_a_set_and_are_no_text() -> None:
    roles: Any = ["clerk", "clerk"]
    assert Actor("ann", roles).roles == frozenset({"clerk"})
    with pytest.raises(ValueError, match="a set, not the text"):
        Actor("ann", "clerk")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, "\ud800", "a\x00"])
def test_the_name_of_an_actor_can_be_stored_and_shown(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 200 printable characters"):
        Actor(name)
