"""Pages of `GET /events` end by bytes, and an event that is damaged is named instead of breaking the JSON around it."""

import json
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from tests.http.http_helpers import problem
from twofold import App, Unavailable
from twofold.domain.envelope import Metadata, StoredEnvelope
from twofold.domain.events import NewEvent, RecordedEvent
from twofold.http import Api, Limits, asgi
from twofold.http.event_records import EventPage, damage, undamaged
from twofold.write_store.port import Append

STREAM = {"Accept": "text/event-stream"}
METADATA = Metadata(0, "c", "c")


async def put(app: App, *payloads: bytes) -> None:
    """Write events with these payloads, as they are."""
    assert app._running is not None
    events = [NewEvent(f"e.{i}", "deposited", 1, ("account:a",), payload) for i, payload in enumerate(payloads)]
    await app._running.write_store.append([Append(METADATA, tuple(events))])


async def all_pages(http: httpx.AsyncClient, **options: int) -> list[EventPage]:
    """Every page of the log."""
    pages: list[EventPage] = []
    more = True
    while more:
        after = {"after": pages[-1].token} if pages else {}
        answer = await http.get("/events", params={"limit": 1000, **options, **after})
        assert answer.status_code == 200, answer.text
        pages.append(msgspec.json.decode(answer.content, type=EventPage))
        assert answer.headers["twofold-position"] == pages[-1].token
        more = pages[-1].more
    return pages


def positions(page: EventPage) -> list[int]:
    return [event.position for event in page.events]


@pytest.fixture
async def small_pages(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose pages end at 100,000 bytes."""
    transport = httpx.ASGITransport(asgi(app, limits=Limits(events_bytes=100_000)))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


async def test_a_page_ends_by_bytes_and_says_that_there_is_more(app: App, small_pages: httpx.AsyncClient) -> None:
    await put(app, *[b'"%s"' % (b"x" * 40_000)] * 7, b'"%s"' % (b"y" * 500_000), b"1", b"2")
    pages = await all_pages(small_pages)
    assert [positions(page) for page in pages] == [[1, 2, 3], [4, 5, 6], [7, 8], [9, 10]]
    assert [page.more for page in pages] == [True, True, True, False]
    assert [positions(page) for page in await all_pages(small_pages, limit=2)] == [
        [1, 2], [3, 4], [5, 6], [7, 8], [9, 10]
    ]  # fmt: skip


async def test_a_large_page_is_one_json_document_and_its_head_has_no_body(app: App, inside: httpx.AsyncClient) -> None:
    await put(app, *[b'{"n":"%s"}' % (b"x" * 90_000)] * 20)
    answer = await inside.get("/events")
    assert len(answer.json()["events"]) == len(answer.content) // 90_000
    assert (await inside.head("/events")).content == b""


@pytest.mark.parametrize("broken", [b'{"{', b"", b'{"a":1}}', b'"\xff"', b"\x00", b'{"a":1'])
async def test_a_payload_that_is_not_json_is_named_and_the_events_before_it_are_sent(
    app: App, inside: httpx.AsyncClient, broken: bytes
) -> None:
    await put(app, b"1", b"2", broken, b"4")
    page = msgspec.json.decode((await inside.get("/events")).content, type=EventPage)
    assert (positions(page), page.more) == ([1, 2], True)
    detail = problem(await inside.get("/events", params={"after": page.token}), 503)["detail"]
    assert "'deposited' event at position 3 is damaged: its payload is not JSON" in detail


@pytest.mark.parametrize(
    ("head", "tags"), [(b"{", b"[]"), (b'["c",0,0]', b"[1]"), (b'["c",0,0]', b'["\xff"]'), (b"", b"")]
)
def test_what_is_stored_about_an_event_may_be_damaged_too(head: bytes, tags: bytes) -> None:
    def event() -> RecordedEvent:
        return RecordedEvent(7, "deposited", 1, b"1", StoredEnvelope(head, tags), b"")

    assert "is not as it was written" in (damage(event()) or "")
    with pytest.raises(Unavailable, match="position 7"):
        undamaged([event()])


async def test_a_stream_ends_with_a_problem_at_a_payload_that_is_not_json(app: App, inside: httpx.AsyncClient) -> None:
    await put(app, b"1", b'{"{', b"3")
    answer = await inside.get("/events", headers=STREAM)
    frames = [dict(line.split(": ", 1) for line in part.splitlines()) for part in answer.text.strip().split("\n\n")]
    assert [frame.get("event") for frame in frames] == [None, "event", "problem"]
    assert "position 2" in json.loads(frames[2]["data"])["detail"]


async def test_line_ends_within_a_payload_do_not_end_the_line_of_a_stream(app: App, api: Api) -> None:
    await put(app, b'{\r\n  "text": "a\\nb"\n}', b'{"{')
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
        text = (await http.get("/events", headers=STREAM)).text
    (frame,) = [part for part in text.split("\n\n") if "event: event" in part]
    (data,) = [line for line in frame.splitlines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["data"] == {"text": "a\nb"}


@pytest.mark.parametrize(("last", "expected"), [("0", []), ("2", [3, 4]), ("9", [1, 2, 3, 4])])
async def test_a_page_can_start_some_positions_before_the_head(
    app: App, inside: httpx.AsyncClient, last: str, expected: list[int]
) -> None:
    await put(app, b"1", b"2", b"3", b"4")
    page = msgspec.json.decode((await inside.get("/events", params={"last": last})).content, type=EventPage)
    assert positions(page) == expected
    await put(app, b"5")
    later = msgspec.json.decode((await inside.get("/events", params={"after": page.token})).content, type=EventPage)
    assert positions(later) == [5]


@pytest.mark.parametrize("last", ["-1", "x", "1.0", "", "1000000001", "\uff19"])
async def test_a_start_before_the_head_is_a_number_of_positions(inside: httpx.AsyncClient, last: str) -> None:
    answer = problem(await inside.get("/events", params={"last": last}), 400)
    assert (answer["field"], answer["detail"]) == ("last", "last is a whole number from 0 to 1000000000.")


async def test_a_page_does_not_start_at_two_places(app: App, inside: httpx.AsyncClient) -> None:
    await put(app, b"1")
    token = (await inside.get("/events")).json()["token"]
    answer = problem(await inside.get("/events", params={"last": "1", "after": token}), 400)
    assert (answer["field"], "Send one of them" in answer["detail"]) == ("last", True)


async def test_a_stream_starts_some_positions_before_the_head_once_and_then_goes_on_where_it_was(
    app: App, inside: httpx.AsyncClient
) -> None:
    await put(app, b"1", b"2", b"3")
    token = (await inside.get("/events", params={"limit": 1})).json()["token"]
    await put(app, b'{"{')  # what is damaged ends a stream, so that this test can read all of it
    first = await inside.get("/events", params={"last": "2"}, headers=STREAM)
    again = await inside.get("/events", params={"last": "2"}, headers=STREAM | {"Last-Event-ID": token})
    assert [text.text.count("event: event") for text in (first, again)] == [1, 2]
