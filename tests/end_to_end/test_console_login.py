"""In a real browser an operator logs in to the console with an API key, looks, acts, and logs out."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.end_to_end.test_pages import browser
from tests.http.access_helpers import guarded_bank
from twofold.access.api_keys import ApiKeys, create_key
from twofold.http import asgi
from twofold.ui import console
from twofold.world import RealWorld

__all__ = ["browser"]  # a fixture

pytestmark = pytest.mark.browser


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[str]:
    async with guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")]) as app:
        listening = socket.create_server(("127.0.0.1", 0))
        served = asgi(app, {"/console": console()})
        server = uvicorn.Server(uvicorn.Config(served, lifespan="off", log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        host, port = listening.getsockname()
        yield f"http://{host}:{port}"
        served.drain()
        server.should_exit = True
        await serving


async def test_an_operator_logs_in_looks_acts_and_logs_out(browser: Browser, site: str, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.json", RealWorld(), name="otto", roles=["operator"], days=1)
    context = await browser.new_context(base_url=site)
    page = await context.new_page()
    await page.goto("/console/")
    await expect(page.locator("#state")).to_have_text("not logged in")
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()

    await page.get_by_label("Key or token").fill("tf_wrong_key")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.locator("#login-result")).to_have_text("The API key is unknown, revoked or expired.")

    await page.get_by_label("Key or token").fill(key)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.locator("#actor")).to_have_text("otto, operator")
    await expect(page.locator("#state")).to_have_text("ready")
    await expect(page.locator("#login")).to_be_hidden()
    await expect(page.locator("span#rejected")).to_be_visible()
    ids = await page.evaluate("Array.from(document.querySelectorAll('[id]'), (each) => each.id)")
    assert sorted(ids) == sorted(set(ids))
    row = page.locator("#followers li", has_text="balances")
    await row.get_by_role("button", name="Pause").click()
    await row.get_by_role("button", name="Pause balances?").click()
    await expect(page.locator("#work-list")).to_contain_text("balances")
    # The key is nowhere where a script could read it.
    assert key not in await page.evaluate(
        "document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"
    )

    await page.get_by_role("button", name="Log out").click()
    await expect(page.locator("#state")).to_have_text("not logged in")
    await context.close()
