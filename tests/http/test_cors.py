"""Pages of allowed other sites may send and read, and no others."""

import asyncio
import http.server
import signal
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from playwright.async_api import async_playwright

from tests.http.bank_server import open_bank
from tests.http.http_helpers import DEPOSIT
from twofold.http import Trust, asgi
from twofold.http.server import serve

SHOP = "https://shop.example"
OTHER = "https://shop.example.evil"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}
ALLOW_ORIGIN = "access-control-allow-origin"


@pytest.fixture(params=[False, True], ids=["no-cookies", "cookies"])
async def allowing(request: pytest.FixtureRequest) -> AsyncIterator[tuple[httpx.AsyncClient, bool]]:
    """A client of a bank that allows SHOP, and whether it may send cookies."""
    app = open_bank()
    api = asgi(app, trust=Trust(origins=frozenset({SHOP}), credentials=request.param))
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as client:
        yield client, request.param


def headers(origin: str) -> dict[str, str]:
    return {"Origin": origin, "Sec-Fetch-Site": "cross-site"}


async def test_a_page_of_an_allowed_site_is_told_what_it_may_send(allowing: tuple[httpx.AsyncClient, bool]) -> None:
    client, cookies = allowing
    answer = await client.options("/commands/deposit", headers=headers(SHOP) | ASKS)
    assert answer.status_code == 204
    assert answer.headers[ALLOW_ORIGIN] == SHOP
    assert "POST" in answer.headers["access-control-allow-methods"]
    for name in ("content-type", "idempotency-key", "twofold-position", "authorization"):
        assert name in answer.headers["access-control-allow-headers"]
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "Origin" in answer.headers["vary"] and "Access-Control-Request-Headers" in answer.headers["vary"]
    assert ("access-control-allow-credentials" in answer.headers) is cookies


async def test_it_may_send_and_read_the_answer_with_its_position(allowing: tuple[httpx.AsyncClient, bool]) -> None:
    client, cookies = allowing
    answer = await client.post("/commands/deposit", json=DEPOSIT, headers=headers(SHOP))
    assert (answer.status_code, answer.headers[ALLOW_ORIGIN]) == (200, SHOP)
    assert "twofold-position" in answer.headers["access-control-expose-headers"]
    assert "twofold-position" in answer.headers
    assert answer.headers["vary"] == "Origin"
    assert ("access-control-allow-credentials" in answer.headers) is cookies


@pytest.mark.parametrize("path", ["/events", "/docs", "/nothing", "/", "/fail", "/queries/nope"])
async def test_every_answer_can_be_read_also_a_problem(allowing: tuple[httpx.AsyncClient, bool], path: str) -> None:
    client, _ = allowing
    assert (await client.get(path, headers=headers(SHOP))).headers[ALLOW_ORIGIN] == SHOP


async def test_other_sites_are_not_told_and_may_not_send(allowing: tuple[httpx.AsyncClient, bool]) -> None:
    client, _ = allowing
    for answer in (
        await client.options("/commands/deposit", headers=headers(OTHER) | ASKS),
        await client.post("/commands/deposit", json=DEPOSIT, headers=headers(OTHER)),
    ):
        assert answer.status_code == 403
        assert ALLOW_ORIGIN not in answer.headers
        assert "access-control-allow-methods" not in answer.headers
    read = await client.get("/events", headers=headers(OTHER))
    assert ALLOW_ORIGIN not in read.headers
    assert "access-control-allow-credentials" not in read.headers
    # A cache must not hand it to a page of the allowed site, or the other way round.
    assert read.headers["vary"] == "Origin"
    assert (await client.get("/events")).headers["vary"] == "Origin"


async def test_without_allowed_sites_no_answer_speaks_of_them() -> None:
    app = open_bank()
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(asgi(app)), base_url="http://testserver") as client:
        for answer in (
            await client.options("/commands/deposit", headers=headers(SHOP) | ASKS),
            await client.get("/events", headers=headers(SHOP)),
        ):
            assert [name for name in answer.headers if name.startswith("access-control") or name == "vary"] == []


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>a shop</title>")

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def other_site() -> Iterator[str]:
    """The origin of a page of another site: a port makes one."""
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=pages.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{pages.server_port}"
    pages.shutdown()
    thread.join()
    pages.server_close()


SCRIPT = """async (base) => {
  const found = {};
  const sent = {method: "POST", headers: {"Content-Type": "application/json", "Idempotency-Key": "k"},
                body: '{"account_id": "ann", "cents": 100}'};
  const failed = (error) => String(error);
  const withPosition = (answer) => answer.headers.get("twofold-position") ? answer.status : 0;
  found.command = await fetch(base + "/commands/deposit", sent).then(withPosition, failed);
  found.query = await fetch(base + "/queries/balances").then((answer) => answer.status, failed);
  found.stream = await new Promise((done) => {
    const source = new EventSource(base + "/events");
    source.onopen = () => { source.close(); done("open"); };
    source.onerror = () => { source.close(); done("error"); };
  });
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("allowed", [True, False])
async def test_a_browser_lets_a_page_of_an_allowed_site_work(chromium: str, other_site: str, allowed: bool) -> None:
    trust = Trust(origins=frozenset({other_site} if allowed else ()))
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(open_bank(), port=0, trust=trust, started=started.set_result))
    base = await started
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        page = await browser.new_page()
        await page.goto(other_site)
        found = await page.evaluate(SCRIPT, base)
        await browser.close()
    signal.raise_signal(signal.SIGTERM)
    await serving
    if allowed:
        assert found == {"command": 200, "query": 200, "stream": "open"}
    else:
        assert found["stream"] == "error"
        assert "TypeError" in found["command"] and "TypeError" in found["query"]
