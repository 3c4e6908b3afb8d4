"""The wire establishes in one place who calls: the name is in the events and in the records of operators' actions."""

import httpx
import pytest

from tests.http.http_helpers import deposit, do
from twofold import App
from twofold.http import Api
from twofold.http.wire import Principal


async def test_every_caller_is_anonymous(inside: httpx.AsyncClient, app: App) -> None:
    await deposit(inside, "ann")
    (event,) = (await app.log()).events
    assert event.metadata.actor is None


async def test_commands_and_actions_carry_the_name_of_the_caller(
    inside: httpx.AsyncClient, api: Api, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.wire, "caller", lambda _: Principal("ann"))
    await deposit(inside, "ben")
    (event,) = (await app.log()).events
    assert event.metadata.actor == "ann"
    await do(inside, "balances", "rebuild", {})
    await do(inside, "balances", "retry", {"key": "ben"}, 400)
    await inside.post("/projections/rebuild", json={"names": ["balances"]})
    actions = (await app.projections.actions("balances")).values()
    assert {action.actor for action in actions} == {"ann"}
    assert {action.what for action in actions} == {"rebuild", "retry"}
