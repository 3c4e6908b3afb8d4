"""In a real browser the console shows which actions are needed, and its buttons do them."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.end_to_end.test_pages import WIDTHS, Window, browser, harmless
from tests.http.bank_server import open_bank
from tests.sample_domains import bank
from tests.sample_domains.bank import BalanceOf, Deposit
from tests.sample_domains.counter_app_helpers import until
from twofold import App
from twofold.http import asgi
from twofold.ui import console

__all__ = ["browser"]  # a fixture

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b id='owned'>"


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with open_bank() as app:
        await app.send(Deposit("ann", 100))
        yield app


@pytest.fixture
async def site(app: App) -> AsyncIterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    served = asgi(app, {"/console": console()})
    server = uvicorn.Server(uvicorn.Config(served, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    host, port = listening.getsockname()
    yield f"http://{host}:{port}"
    served.drain()
    server.should_exit = True
    await serving


@pytest.fixture
async def window(browser: Browser, site: str) -> AsyncIterator[Window]:
    """The console; any complaint of the browser fails the test, except for the query that fails on purpose."""
    context = await browser.new_context(base_url=site)
    window = Window(await context.new_page())
    await window.page.route("**/queries/**", lambda route: route.abort())
    yield window
    await context.close()
    assert [complaint for complaint in window.complaints if "ERR_FAILED" not in complaint] == []


async def test_a_healthy_app_needs_no_action(window: Window) -> None:
    await window.page.goto("/console/")
    await expect(window.page.locator("#state")).to_have_text("ready")
    await expect(window.page.locator("#work")).to_be_hidden()


async def test_a_parked_key_is_retried_until_its_fold_works(
    window: Window, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = window.page
    await page.goto("/console/")
    for cents in (5, 6):
        await app.send(Deposit("poison", cents))
    row = page.locator("#work-list li", has_text="balances: key poison is parked at event #2: ValueError")
    await expect(row).to_contain_text("1 more event waits behind it")
    await expect(page.locator("#followers li", has_text="balances")).to_contain_text("up to date, 1 parked")
    await expect(page.locator("#state")).to_contain_text("projection 'balances' has 1 parked key.")
    await expect(page.locator("#state")).to_contain_text("degraded: ")
    await expect(page.locator("#state")).to_have_class("state late")
    await row.get_by_role("button", name="Retry").click()
    await expect(page.locator("#work-result")).to_contain_text("balances: It is parked at position 2: ValueError")
    await expect(row).to_be_visible()
    monkeypatch.setattr(bank, "POISONED", set())
    await row.get_by_role("button", name="Retry").click()
    await expect(page.locator("#work-result")).to_have_text("balances: It is up to date.")
    await expect(row).to_have_count(0)
    assert (await app.ask(BalanceOf("poison"))).value.cents == 11


async def test_an_action_that_cannot_be_undone_takes_two_clicks(window: Window, app: App) -> None:
    page = window.page
    await app.send(Deposit("poison", 5))
    await page.goto("/console/")
    row = page.locator("#work-list li", has_text="balances: key poison is parked")
    await row.get_by_role("button", name="Skip").click()
    await row.get_by_role("button", name="Retry").focus()
    await expect(row.get_by_role("button", name="Skip", exact=True)).to_be_visible()
    assert await app.projections.actions("balances") == {}
    await row.get_by_role("button", name="Skip").click()
    await row.get_by_role("button", name="Skip it for good?").click()
    await expect(page.locator("#work-result")).to_have_text("balances: The event at 2 is skipped.")
    await expect(row).to_have_count(0)
    (action,) = (await app.projections.actions("balances")).values()
    assert (action.what, action.key, action.done) == ("skip", "poison", True)


async def test_a_generation_is_switched_to_switched_back_from_and_dropped(window: Window, app: App) -> None:
    page = window.page
    await app.projections.rebuild(["balances"])
    await page.goto("/console/")
    await page.get_by_role("button", name="Switch").click()
    standby = page.locator("#work-list li", has_text="generation 1 served before and is on standby, up to date.")
    await expect(standby).to_be_visible()
    await standby.get_by_role("button", name="Switch back").click()
    standby = page.locator("#work-list li", has_text="generation 2 served before and is on standby")
    await standby.get_by_role("button", name="Drop").click()
    await standby.get_by_role("button", name="Drop it for good?").click()
    await expect(page.locator("#work-list li")).to_have_count(0)
    assert [action.what for action in (await app.projections.actions("balances")).values()] == [
        "rebuild",
        "switch",
        "switch-back",
        "drop",
    ]


async def test_a_policy_is_paused_and_resumed(window: Window, app: App) -> None:
    page = window.page
    await page.goto("/console/")
    row = page.locator("#followers li", has_text="advisor")
    await row.get_by_role("button", name="Pause").click()
    await row.get_by_role("button", name="Pause advisor?").click()
    await expect(page.locator("#work-result")).to_have_text("advisor: It is paused.")
    await expect(row).to_contain_text("paused, up to date")
    await expect(row.get_by_role("button")).to_have_count(0)
    await expect(page.locator("#state")).to_contain_text("policy 'advisor', at position 1: It is paused.")
    paused = page.locator("#work-list li", has_text="advisor is paused at event #1.")
    await paused.get_by_role("button", name="Resume").click()
    await expect(page.locator("#work-result")).to_have_text("advisor: It is resumed.")
    await expect(paused).to_have_count(0)
    await expect(page.locator("#state")).to_have_text("ready")


async def test_a_stalled_follower_is_shown_with_its_problem_of_the_status(
    window: Window, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = window.page
    await page.goto("/console/")
    running = app._running
    assert running is not None
    await app.projections.split("balances")
    await expect(page.locator("#followers li", has_text="balances")).to_contain_text("2 partitions")
    await until(lambda: all(worker.position for worker in running.synchronization.workers), "caught up")
    monkeypatch.setattr(app, "settings", type(app.settings)(stall_seconds=0.2))
    for worker in running.synchronization.workers:
        monkeypatch.setattr(worker, "_held", lambda: False)
    await app.send(Deposit("ann", 1))
    for name in ("advisor", "balances"):
        row = page.locator("#followers li.bad", has_text=name)
        await expect(row).to_contain_text("has not moved from position 1 for ")
    await expect(page.locator("#state")).to_contain_text("1 event behind")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_the_screen_is_accessible_and_shows_keys_as_text(
    browser: Browser, site: str, app: App, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "POISONED", {HOSTILE, "x" * 200})
    for key in bank.POISONED:
        await app.send(Deposit(key, 1))
    await app.projections.rebuild(["balances"])
    wrong: list[str] = []
    for width in WIDTHS:
        context = await browser.new_context(
            base_url=site,
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        page = await context.new_page()
        await page.goto("/console/")
        await expect(page.locator("#work-list li")).to_have_count(5)
        await expect(page.locator("#work-list")).to_contain_text(HOSTILE)
        await harmless(page)
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{width}: scrolls sideways")
        report = await Axe().run(page)
        if report.violations_count:
            wrong.append(f"{width}: {report.generate_report()}")
        await context.close()
    assert wrong == []
