"""Under a prefix all links have it: of problems, the description, the docs page, the console and the entry."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from urllib.parse import urljoin

import httpx
import pytest
from playwright.async_api import async_playwright, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from tests.http.bank_server import open_bank
from tests.http.http_helpers import DEPOSIT
from tests.sample_domains.bank import followed_bank
from twofold import App
from twofold.http import Api, Trust, asgi
from twofold.http.server import serve
from twofold.ui import console


def without_pages() -> App:
    return App(followed_bank(), write_store="memory:", read_store="memory:")


async def show_own_link(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.url_for("own")))


PAGES = Starlette(routes=[Route("/", show_own_link), Route("/own", show_own_link, name="own")])
MOUNTS: dict[str, ASGIApp] = {"/console": console(), "/pages": PAGES}


class Placed:
    """One way to publish the API under a prefix."""

    def __init__(self, app: ASGIApp, public: str, sent: str, headers: dict[str, str] | None = None) -> None:
        self.app, self.public, self.sent, self.headers = app, public, sent, headers or {}


def placings(app: App) -> dict[str, Placed]:
    api = asgi(app, MOUNTS)
    behind = asgi(app, MOUNTS, trust=Trust(proxies=frozenset({"127.0.0.1"})))
    published = asgi(app, MOUNTS, root_path="/shop")
    outer = Starlette(routes=[Mount("/shop", app=Starlette(routes=[Mount("/inner", app=api)]))])
    return {
        "plain": Placed(api, "", ""),
        "mounted": Placed(Starlette(routes=[Mount("/shop", app=api)]), "/shop", "/shop"),
        "mounted-like-a-route": Placed(Starlette(routes=[Mount("/commands", app=api)]), "/commands", "/commands"),
        "mounted-twice": Placed(outer, "/shop/inner", "/shop/inner"),
        "root-path-kept": Placed(published, "/shop", "/shop"),
        "root-path-stripped": Placed(published, "/shop", ""),
        "forwarded-prefix": Placed(behind, "/shop", "", {"X-Forwarded-Prefix": "/shop"}),
    }


NAMES = [*placings(without_pages())]


@pytest.fixture(params=NAMES)
async def placed(request: pytest.FixtureRequest) -> AsyncIterator[tuple[httpx.AsyncClient, Placed]]:
    async with without_pages() as app:
        place = placings(app)[request.param]
        transport = httpx.ASGITransport(place.app)
        base = f"http://testserver{place.sent}"
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=place.headers) as client:
            yield client, place


async def test_commands_queries_and_problems_are_answered(placed: tuple[httpx.AsyncClient, Placed]) -> None:
    client, place = placed
    assert (await client.post("/commands/deposit", json=DEPOSIT)).status_code == 200
    assert (await client.get("/queries/balances")).status_code == 200
    for answer in (await client.get("/queries/nope"), await client.post("/commands/deposit", json={})):
        assert answer.json()["type"].startswith(f"{place.public}/docs#problem-")


async def test_the_description_names_the_prefix_as_its_server(placed: tuple[httpx.AsyncClient, Placed]) -> None:
    client, place = placed
    assert (await client.get("/openapi.json")).json()["servers"] == [{"url": place.public or "/"}]


@pytest.mark.parametrize("path", ["/docs", "/console/", "/"])
async def test_every_link_of_a_page_leads_to_an_answer(placed: tuple[httpx.AsyncClient, Placed], path: str) -> None:
    client, place = placed
    page = await client.get(path, headers={"Accept": "text/html"})
    links = set(re.findall(r"(?:href|src)=\"([^\"#]+)\"", page.text)) - {"data:,"}
    assert len(links) >= 2
    for link in links:
        public = urljoin(f"http://testserver{place.public}{path}", link).removeprefix("http://testserver")
        assert public.startswith(f"{place.public}/"), link
        assert (await client.get(public.removeprefix(place.public))).status_code == 200, link


async def test_a_mounted_page_makes_its_own_links(placed: tuple[httpx.AsyncClient, Placed]) -> None:
    client, place = placed
    assert (await client.get("/pages/own")).text == f"http://testserver{place.public}/pages/own"
    assert (await client.get("/console")).headers["location"].endswith(f"{place.public}/console/")


async def test_the_entry_of_an_app_without_pages_leads_to_docs_and_console(
    placed: tuple[httpx.AsyncClient, Placed],
) -> None:
    client, place = placed
    answer = await client.get("/", headers={"Accept": "application/json"})
    links = answer.json()["links"]
    assert links["docs"] == f"{place.public}/docs"
    assert links["openapi"] == f"{place.public}/openapi.json"
    assert links["console"] == f"{place.public}/console/"
    page = await client.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "console/" in page.text
    assert page.headers["vary"] == answer.headers["vary"] == "Accept"


async def test_the_prefix_alone_leads_to_the_entry() -> None:
    async with without_pages() as app:
        api: Api = asgi(app, root_path="/shop")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as client:
            answer = await client.get("/shop")
            assert (answer.status_code, answer.headers["location"]) == (307, "/shop/")


async def test_an_app_with_pages_has_its_own_entry() -> None:
    app = open_bank()
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(asgi(app)), base_url="http://testserver") as client:
        assert (await client.get("/")).text == "the bank"


async def test_a_problem_on_a_stream_has_the_prefix() -> None:
    async with open_bank() as app:
        api = asgi(app, root_path="/shop")
        headers = {"Accept": "text/event-stream"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as client:
            answer = await client.get("/shop/queries/broken", headers=headers)
            assert answer.json()["type"] == "/shop/docs#problem-function-failed"


@pytest.mark.browser
async def test_the_console_and_the_docs_page_work_under_a_prefix(chromium: str) -> None:
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    app = without_pages()
    serving = asyncio.create_task(serve(app, port=0, mounts=MOUNTS, root_path="/shop", started=started.set_result))
    base = f"{await started}/shop"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        page = await browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        await page.goto(f"{base}/docs")
        await page.click("#command-deposit button[type=submit]")
        await expect(page.locator("#command-deposit .result")).to_contain_text("200 OK")
        assert f"{base}/commands/deposit" in await page.inner_text("#command-deposit .curl")
        await page.goto(f"{base}/console/")
        await expect(page.locator("#head")).to_have_text("1")
        await expect(page.locator("#answer")).not_to_be_empty()
        await browser.close()
    signal.raise_signal(signal.SIGTERM)
    await serving
    assert complaints == []
