"""The API page works in a real browser under its own security policy, and is accessible."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from tests.http.conftest import Server

pytestmark = pytest.mark.browser


@pytest.fixture(params=[1280, 390])
def page(chromium: str, request: pytest.FixtureRequest, server: Server) -> Iterator[Page]:
    """The page, and an assertion that the browser had nothing to complain about."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": request.param, "height": 900})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}/docs")
        yield page
        browser.close()
        assert complaints == []


def test_a_command_is_sent_and_its_receipt_is_displayed(page: Page) -> None:
    page.click("#command-deposit button[type=submit]")
    expect(page.locator("#command-deposit .result")).to_contain_text("200 OK")
    page.click("#events [data-follow]")
    expect(page.locator("#events .result")).to_contain_text('"type": "deposited"')
    page.click("#query-balances [type=submit]")
    expect(page.locator("#query-balances .result")).to_contain_text('"parked"')
    assert Axe().run(page).violations_count == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
