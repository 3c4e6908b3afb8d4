"""The shop's pages as a program sees them: forms, redirects, refusals and headers."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from shop.app import modules
from shop.orders import PayOrder
from shop.pages import pages
from shop.pages.chart import Bar, bar_chart, scale_step
from shop.pages.cover import cover
from shop.pages.rendering import dollars
from shop.seed import RECORDS, seed_catalogue
from twofold import ALL_EVENTS, App
from twofold.http import asgi

HOST = "http://127.0.0.1"


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with App(
        *modules(tmp_path, timedelta(hours=1)), write_store="memory:", read_store="memory:", pages=pages
    ) as app:
        await seed_catalogue(app)
        token = app.token((await app.status()).head)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi(app)), base_url=HOST) as client:
            await client.get("/", params={"position": token})
        yield app


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi(app)), base_url=HOST) as client:
        yield client


async def types_of(app: App, kind: str) -> int:
    return sum(event.type == kind for event in (await app.log(ALL_EVENTS, 0, 1_000)).events)


FORM = {"order_id": "o-1", "customer_id": "ann", "quantity-blue-hour": "2", "quantity-tin-sun": "", "coupon": ""}


async def test_an_order_leads_to_its_page_with_the_receipt(client: httpx.AsyncClient) -> None:
    sent = await client.post("/orders", data=FORM)
    assert sent.status_code == 303
    assert sent.headers["location"].startswith("/orders/o-1?position=")
    page = await client.get(sent.headers["location"])
    assert page.status_code == 200
    assert "$33.98" in page.text


async def test_a_form_that_is_sent_twice_is_one_order(client: httpx.AsyncClient, app: App) -> None:
    first, second = [await client.post("/orders", data=FORM) for _ in range(2)]
    assert (first.status_code, second.status_code) == (303, 303)
    assert await types_of(app, "order-placed") == 1


async def test_each_form_is_an_order_of_its_own(client: httpx.AsyncClient) -> None:
    ids = {re.findall(r'name="order_id" value="([^"]+)"', (await client.get("/")).text)[0] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantity-first-snow-live": "4"}, "only 3 left"),
        ({"coupon": "NOSUCH"}, "We do not know this coupon"),
        ({"customer_id": "unknown"}, "We do not know this customer"),
        ({"customer_id": ""}, "Please choose who is ordering"),
        ({"quantity-blue-hour": "", "quantity-tin-sun": "0"}, "Please choose at least one record"),
        ({"quantity-blue-hour": "-1"}, "is not a quantity"),
        ({"quantity-blue-hour": "1001"}, "is not a quantity"),
        ({"quantity-blue-hour": "٣"}, "is not a quantity"),
    ],
)
async def test_a_refusal_says_why_and_keeps_what_was_typed(
    client: httpx.AsyncClient, app: App, change: dict[str, str], said: str
) -> None:
    form = FORM | {"quantity-tin-sun": "7"} | change
    refused = await client.post("/orders", data=form)
    assert refused.status_code in (400, 422)
    alert = refused.text.partition('role="alert">')[2].partition("</p>")[0]
    assert said in alert
    assert f'value="{form["quantity-tin-sun"]}"' in refused.text
    assert 'value="o-1"' in refused.text
    assert await types_of(app, "order-placed") == 0


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"order_id=%ff", b"a=1&" * 600, b"a=" + b"x" * 70_000, b"order_id=a%00b", b""]
)
async def test_an_impossible_form_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await client.post("/orders", content=body, headers=headers)).status_code == 400


async def test_a_form_from_another_site_is_refused(client: httpx.AsyncClient, app: App) -> None:
    theirs = await client.post("/orders", data=FORM, headers={"Origin": "http://evil.test"})
    assert theirs.status_code == 403
    assert await types_of(app, "order-placed") == 0
    ours = await client.post("/orders", data=FORM, headers={"Origin": HOST})
    assert ours.status_code == 303


async def test_an_order_is_paid_shipped_and_then_cannot_be_cancelled(client: httpx.AsyncClient) -> None:
    await client.post("/orders", data=FORM)
    for step in ("pay", "ship"):
        done = await client.post(f"/orders/o-1/{step}")
        assert done.status_code == 303
        assert (await client.get(done.headers["location"])).status_code == 200
    refused = await client.post("/orders/o-1/cancel", data={"reason": "too late"})
    assert refused.status_code == 422
    assert "is shipped already" in refused.text


async def test_a_cancelled_order_says_why(client: httpx.AsyncClient, app: App) -> None:
    await client.post("/orders", data=FORM)
    await app.send(PayOrder("o-1"))
    done = await client.post("/orders/o-1/cancel", data={"reason": "I have it <already>"})
    page = (await client.get(done.headers["location"])).text
    assert "I have it &lt;already&gt;" in page
    assert "$33.98 were refunded" in page


async def test_who_registers_can_order_at_once(client: httpx.AsyncClient) -> None:
    done = await client.post("/customers", data={"customer_id": "zoe", "name": "Zoë"})
    assert done.status_code == 303
    page = await client.get(done.headers["location"].partition("#")[0])
    assert '<option value="zoe" selected>Zoë</option>' in page.text


async def test_pieces_are_put_on_the_shelf_once_for_each_form(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        done = await client.post("/stock", data={"sku": "tin-sun", "quantity": "10", "form_id": "f-1"})
        assert done.status_code == 303
    stock = (await client.get(done.headers["location"])).text
    assert re.search(r'data-part="available-tin-sun">\s*45\s*<', stock)
    assert (await client.post("/stock", data={"sku": "tin-sun", "quantity": "10"})).status_code == 400


@pytest.mark.parametrize("path", ["/orders/none", "/customers/none", "/nothing"])
async def test_an_unknown_path_is_a_404_with_a_page(client: httpx.AsyncClient, path: str) -> None:
    missing = await client.get(path)
    assert missing.status_code == 404
    assert "<h1>" in missing.text


@pytest.mark.parametrize("position", ["nonsense", "other.1.1"])
async def test_a_position_that_is_not_ours_is_refused(client: httpx.AsyncClient, position: str) -> None:
    assert (await client.get("/stock", params={"position": position})).status_code == 400


@pytest.mark.parametrize("path", ["/", "/stock", "/customers", "/customers/ann", "/revenue", "/revenue?month=1997-03"])
async def test_every_page_forbids_inline_code(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page.text)
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style", page.text)


async def test_the_revenue_of_a_month_is_shown_by_day(client: httpx.AsyncClient, app: App) -> None:
    await client.post("/orders", data=FORM)
    token = (await app.send(PayOrder("o-1"))).token
    whole = (await client.get("/revenue", params={"position": token})).text
    link = re.findall(r'<a href="(/revenue\?month=[\d-]+)"', whole)[0]
    month = (await client.get(link)).text
    assert "by day" in month
    assert "$33.98" in month


def test_a_chart_reaches_its_highest_bar_in_round_steps() -> None:
    assert [scale_step(cents) for cents in (0, 1, 500, 501, 12_345_67)] == [100, 100, 100, 200, 5_000_00]
    chart = bar_chart([Bar("<b>", 10_00, "ten"), Bar("c", 0, "none")])
    assert "<b>" not in chart
    assert "$10" in chart


def test_a_cover_follows_from_the_sku_alone() -> None:
    covers = [cover(sku) for sku, *_ in RECORDS]
    assert len(set(covers)) == len(RECORDS)
    assert covers == [cover(sku) for sku, *_ in RECORDS]


@pytest.mark.parametrize(
    ("cents", "text"), [(0, "$0.00"), (5, "$0.05"), (-4_59, "−$4.59"), (24_409_194, "$244,091.94")]
)
def test_money_is_written_exactly(cents: int, text: str) -> None:
    assert dollars(cents) == text
