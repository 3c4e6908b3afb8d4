"""The shop and the console in a real browser, over a real server: what users see, and that pages update themselves."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from shop.app import modules
from shop.catalogue import AddProduct, RestockProduct
from shop.cdnow import old_orders
from shop.customers import RegisterCustomer
from shop.orders import Line, PayOrder, PlaceOrder, TakeOverOrder
from shop.pages import pages
from shop.seed import seed_catalogue
from twofold import App
from twofold.http import asgi
from twofold.ui import console

pytestmark = pytest.mark.browser

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
WIDTHS = (1280, 390)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in ("write_store", "read_store")}
    async with App(*modules(tmp_path / "outbox", timedelta(hours=1)), **urls, pages=pages) as app:
        await seed_catalogue(app)
        yield app


@pytest.fixture
async def site(app: App) -> AsyncIterator[str]:
    """The address of the shop, served as `twofold serve` does."""
    listening = socket.create_server(("127.0.0.1", 0))
    served = asgi(app, {"/console": console(home="/")})
    server = uvicorn.Server(uvicorn.Config(served, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    host, port = listening.getsockname()
    yield f"http://{host}:{port}"
    served.drain()
    server.should_exit = True
    await serving


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        await browser.close()


class Window:
    """A page, and everything the browser complained about while it was open."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self._record(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def _record(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@pytest.fixture
async def window(browser: Browser, site: str) -> AsyncIterator[Window]:
    """A page on the shop; any complaint of the browser fails the test."""
    context = await browser.new_context(base_url=site)
    window = Window(await context.new_page())
    yield window
    await context.close()
    assert window.complaints == []


async def live(page: Page) -> None:
    """Until the page follows its query."""
    await page.wait_for_selector("html[data-following]")


async def api(site: str, command: str, body: dict[str, object]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=site) as client:
        answer = await client.post(f"/commands/{command}", json=body)
        assert answer.status_code == 200, answer.text
        return answer


async def fill_in(page: Page) -> None:
    await page.goto("/")
    await page.get_by_label("The Blue Hour").fill("2")
    await page.get_by_label("Tin Sun").fill("1")
    await page.get_by_label("Who is ordering?").select_option("Ann Okafor")
    await page.get_by_label("Coupon").fill("WELCOME10")


async def test_an_order_from_the_storefront_is_seen_on_its_page(window: Window) -> None:
    page = window.page
    await fill_in(page)
    await expect(page.get_by_role("button", name="Place the order")).to_contain_text("$45.97")
    await page.get_by_role("button", name="Place the order").click()
    await page.wait_for_url("**/orders/*")
    await expect(page.get_by_role("status")).to_have_text("placed")
    await expect(page.get_by_role("row", name="The Blue Hour")).to_contain_text("$33.98")
    await expect(page.get_by_role("row", name="Total")).to_contain_text("$41.38")
    await page.goto("/stock")
    await expect(page.locator("[data-part=available-blue-hour]")).to_have_text("38")
    await page.goto("/customers/ann")
    await expect(page.get_by_role("row").nth(1)).to_contain_text("placed")


async def test_everything_but_the_live_parts_works_without_javascript(browser: Browser, site: str) -> None:
    context = await browser.new_context(base_url=site, java_script_enabled=False)
    page = await context.new_page()
    await fill_in(page)
    await page.get_by_role("button", name="Place the order").click()
    await page.get_by_role("button", name="Pay $41.38").click()
    await page.get_by_role("button", name="Ship it").click()
    await expect(page.get_by_role("status")).to_have_text("shipped")
    await context.close()


async def test_a_double_click_places_one_order(window: Window, app: App) -> None:
    await fill_in(window.page)
    await window.page.get_by_role("button", name="Place the order").dblclick()
    await window.page.wait_for_url("**/orders/*")
    placed = [event for event in (await app.log(limit=1_000)).events if event.type == "order-placed"]
    assert len(placed) == 1


async def test_an_order_page_updates_when_others_change_the_order(window: Window, app: App, site: str) -> None:
    await app.send(PlaceOrder("o-1", "ann", [Line("tin-sun", 1)]))
    page = window.page
    await page.goto("/orders/o-1")
    await live(page)
    await expect(page.get_by_role("status")).to_have_text("placed")
    await api(site, "pay-order", {"order_id": "o-1"})
    await expect(page.get_by_role("status")).to_have_text("paid")
    await expect(page.get_by_role("button", name="Ship it")).to_be_visible()
    await api(site, "ship-order", {"order_id": "o-1"})
    await expect(page.get_by_role("status")).to_have_text("shipped")
    await expect(page.get_by_role("button")).to_have_count(0)


async def test_typed_text_survives_the_changes_of_others(window: Window, app: App, site: str) -> None:
    await app.send(PlaceOrder("o-1", "ann", [Line("tin-sun", 1)]))
    page = window.page
    await page.goto("/orders/o-1")
    await live(page)
    await page.get_by_label("Changed your mind?").fill("I was")
    await api(site, "pay-order", {"order_id": "o-1"})
    await expect(page.get_by_role("status")).to_have_text("paid")
    await expect(page.get_by_label("Changed your mind?")).to_have_value("I was")


async def test_the_storefront_updates_the_stock_while_a_customer_chooses(window: Window, site: str) -> None:
    page = window.page
    await fill_in(page)
    await live(page)
    lines = [{"sku": "first-snow-live", "quantity": 3}]
    await api(site, "place-order", {"order_id": "o-1", "customer_id": "ben", "lines": lines})
    await expect(page.locator("[data-part=left-first-snow-live]")).to_have_text("sold out")
    await expect(page.get_by_label("The Blue Hour")).to_have_value("2")


async def test_the_console_shows_what_happens_as_it_happens(window: Window, app: App, site: str) -> None:
    page = window.page
    await page.goto("/console/")
    head = page.locator("#head")
    await expect(head).to_have_text(str((await app.status()).head))
    await expect(page.locator("#state")).to_have_text("ready")
    await expect(page.locator("#answer")).to_contain_text("orders")
    accepted = int(await page.locator("#commands").inner_text())
    await api(site, "register-customer", {"customer_id": "zoe", "name": "Zoë"})
    lines = [{"sku": "tin-sun", "quantity": 2}]
    await api(site, "place-order", {"order_id": "o-77", "customer_id": "zoe", "lines": lines})
    newest = page.locator("#stream li").first
    await expect(newest).to_contain_text("order-placed")
    await expect(newest).to_contain_text("order:o-77")
    await expect(page.locator("#latest")).to_have_text("order-placed")
    await expect(head).to_have_text(str((await app.status()).head))
    await expect(page.locator("#commands")).to_have_text(str(accepted + 2))
    await expect(page.locator("#commands-rate")).to_have_text(re.compile(r"^\d"))
    await expect(page.locator("#behind")).to_have_text("0")
    await expect(page.locator("#followers li")).to_have_count(7)
    await expect(page.locator("#answer tr", has_text="orders").first).to_contain_text("1")
    await newest.locator("summary").click()
    await expect(newest.locator("pre")).to_contain_text('"order_id": "o-77"')


async def test_the_console_is_found_without_its_last_slash(window: Window) -> None:
    await window.page.goto("/console")
    await expect(window.page).to_have_url(re.compile("/console/$"))
    await expect(window.page.locator("#state")).to_have_text("ready")


async def test_the_console_counts_the_queries_it_sends(window: Window) -> None:
    page = window.page
    await page.goto("/console/")
    await page.get_by_label("Query", exact=True).select_option("stock-levels")
    await expect(page.locator("#answer")).to_contain_text("Glass Orchard")
    before = int(await page.locator("#queries").inner_text())
    await page.get_by_role("button", name="Ask").click()
    await expect(page.locator("#queries")).not_to_have_text(str(before))


HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{7*7}}"


async def test_names_are_shown_as_text_whatever_they_contain(window: Window, app: App) -> None:
    page = window.page
    odd = "o\"><b id='owned'>/?#%"
    await app.send(RegisterCustomer(odd, HOSTILE))
    await app.send(AddProduct(odd, HOSTILE, 1_00))
    await app.send(RestockProduct(odd, 9))
    await page.goto("/console/")
    await expect(page.locator("#head")).to_have_text(re.compile(r"\d"))
    token = (await app.send(PlaceOrder(odd, odd, [Line(odd, 1)]))).token
    newest = page.locator("#stream li").first
    await expect(newest).to_contain_text(f"order:{odd}")
    await newest.locator("summary").click()
    await expect(newest.locator("pre")).to_contain_text("onerror")
    await page.get_by_label("Query", exact=True).select_option("best-customers")
    await expect(page.locator("#answer")).to_contain_text(HOSTILE)
    await harmless(page)
    for path in ("/", "/stock", "/customers"):
        await page.goto(f"{path}?position={token}")
        await expect(page.locator("main")).to_contain_text(HOSTILE)
        await harmless(page)
    await page.get_by_role("link", name=HOSTILE).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    await page.get_by_role("link", name="2026").or_(page.locator("tbody a")).first.click()
    await expect(page.locator(".id")).to_have_text(odd)
    await live(page)
    await page.get_by_role("button", name="Pay").click()
    await expect(page.get_by_role("status")).to_have_text("paid")
    await harmless(page)


async def harmless(page: Page) -> None:
    assert await page.locator("#owned, img[src=x]").count() == 0
    assert "owned" not in await page.title()


async def a_busy_shop(app: App) -> None:
    """Something to see on every page."""
    for order in old_orders()[::200]:
        await app.send(
            TakeOverOrder(order.order_id, f"c-{order.customer}", order.placed_on, order.cds, order.total_cents)
        )
        await app.send(PayOrder(order.order_id))
    await app.send(PlaceOrder("o-1", "ann", [Line("tin-sun", 1), Line("blue-hour", 2)], "FIVER"))


PAGES = [
    "/",
    "/orders/o-1",
    "/customers",
    "/customers/ann",
    "/stock",
    "/revenue",
    "/revenue?month=1997-03",
    "/console/",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_fits_the_screen_and_is_accessible(browser: Browser, site: str, app: App, scheme: str) -> None:
    await a_busy_shop(app)
    wrong: list[str] = []
    for width in WIDTHS:
        context = await browser.new_context(
            base_url=site,
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        for path in PAGES:
            window = Window(await context.new_page())
            await window.page.goto(path)
            await (window.page.wait_for_selector("#answer tr") if path == "/console/" else live(window.page))
            if await window.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wrong.append(f"{path} at {width}: scrolls sideways")
            report = await Axe().run(window.page)
            if report.violations_count:
                wrong.append(f"{path} at {width}: {report.generate_report()}")
            wrong += [f"{path} at {width}: {complaint}" for complaint in window.complaints]
            await window.page.close()
        await context.close()
    assert wrong == []
