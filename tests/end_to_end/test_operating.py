"""In a real browser the console shows what waits for somebody, and does what its buttons say."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.end_to_end.test_pages import WIDTHS, Window, browser, harmless
from tests.http import bank
from tests.http.bank import BalanceOf, Deposit, open_bank
from tests.synchronization.counting import until
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
    """The console; whatever the browser complains of fails the test, but for the question that breaks on purpose."""
    context = await browser.new_context(base_url=site)
    window = Window(await context.new_page())
    await window.page.route("**/queries/**", lambda route: route.abort())
    yield window
    await context.close()
    assert [each for each in window.complaints if "ERR_FAILED" not in each] == []


async def test_a_healthy_app_waits_for_nobody(window: Window) -> None:
    await window.page.goto("/console/")
    await expect(window.page.locator("#state")).to_have_text("all well")
    await expect(window.page.locator("#work")).to_be_hidden()


async def test_a_parked_key_is_tried_again_until_what_failed_is_mended(
    window: Window, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = window.page
    await page.goto("/console/")
    for cents in (5, 6):
        await app.send(Deposit("poison", cents))
    row = page.locator("#work-list li", has_text="balances set poison aside at event #2: ValueError")
    await expect(row).to_contain_text("1 more wait behind it")
    await expect(page.locator("#followers li", has_text="balances")).to_contain_text("up to date, 1 set aside")
    await row.get_by_role("button", name="Try again").click()
    await expect(page.locator("#work-said")).to_contain_text("balances: It is parked at position 2: ValueError")
    await expect(row).to_be_visible()
    monkeypatch.setattr(bank, "POISONED", set())
    await row.get_by_role("button", name="Try again").click()
    await expect(page.locator("#work-said")).to_have_text("balances: It is up to date.")
    await expect(row).to_have_count(0)
    assert (await app.ask(BalanceOf("poison"))).value.cents == 11


async def test_what_cannot_be_undone_takes_two_clicks(window: Window, app: App) -> None:
    page = window.page
    await app.send(Deposit("poison", 5))
    await page.goto("/console/")
    row = page.locator("#work-list li", has_text="balances set poison aside")
    await row.get_by_role("button", name="Pass over it").click()
    await row.get_by_role("button", name="Try again").focus()
    await expect(row.get_by_role("button", name="Pass over it", exact=True)).to_be_visible()
    assert await app.projections.actions("balances") == {}
    await row.get_by_role("button", name="Pass over it").click()
    await row.get_by_role("button", name="Pass over it for good?").click()
    await expect(page.locator("#work-said")).to_have_text("balances: The event at 2 is passed over.")
    await expect(row).to_have_count(0)
    (act,) = (await app.projections.actions("balances")).values()
    assert (act.what, act.key, act.done) == ("skip", "poison", True)


async def test_a_generation_is_switched_to_gone_back_from_and_given_up(window: Window, app: App) -> None:
    page = window.page
    await app.projections.rebuild(["balances"])
    await page.goto("/console/")
    await page.get_by_role("button", name="Switch to it").click()
    kept = page.locator("#work-list li", has_text="generation 1 served before and is kept, up to date.")
    await expect(kept).to_be_visible()
    await kept.get_by_role("button", name="Go back to it").click()
    kept = page.locator("#work-list li", has_text="generation 2 served before and is kept")
    await kept.get_by_role("button", name="Give it up").click()
    await kept.get_by_role("button", name="Give it up for good?").click()
    await expect(page.locator("#work-list li")).to_have_count(0)
    assert [each.what for each in (await app.projections.actions("balances")).values()] == [
        "rebuild",
        "switch",
        "back",
        "drop",
    ]


async def test_who_stands_still_is_shown_with_the_sentence_that_health_says(
    window: Window, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = window.page
    await page.goto("/console/")
    running = app._running
    assert running is not None
    await app.projections.split("balances")
    await expect(page.locator("#followers li", has_text="balances")).to_contain_text("2 partitions")
    await until(lambda: all(worker.position for worker in running.workers), "caught up")
    monkeypatch.setattr(app, "settings", type(app.settings)(stall_seconds=0.2))
    for worker in running.workers:
        monkeypatch.setattr(worker, "_held", lambda: False)
    await app.send(Deposit("ann", 1))
    for name in ("advisor", "balances"):
        await expect(page.locator("#followers li.ill", has_text=name)).to_contain_text("has not moved from 1 for ")
    await expect(page.locator("#state")).to_contain_text("1 events behind")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_the_screen_is_there_for_everybody_and_shows_keys_as_text(
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
        found = await Axe().run(page)
        if found.violations_count:
            wrong.append(f"{width}: {found.generate_report()}")
        await context.close()
    assert wrong == []
