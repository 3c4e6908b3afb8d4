"""The description is made from the types, and whatever follows it or breaks it gets the answers it says."""

import html
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

from tests.http.bank_server import SHORT, open_bank
from tests.http.conftest import Server
from twofold import App, Module
from twofold.http.docs import page_of
from twofold.http.examples import example_of
from twofold.http.openapi import describe
from twofold.http.projection_routes import VERBS

DOCUMENT = describe(open_bank(), SHORT)
SHARED = DOCUMENT["components"]["schemas"]

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


def honest(case: Any, response: Any) -> None:
    """Keeps the description; a 503 says when to come back, and only what is broken on purpose is a 500."""
    if response.status_code == 500:
        assert case.path in ("/commands/break", "/queries/broken")
        assert response.json()["type"] == "/docs#problem-function-failed"
        case.validate_response(response, checks=CHECKS[1:])
    elif response.status_code == 503:
        assert response.headers["retry-after"], response.text
        case.validate_response(response, checks=CHECKS[1:])
    else:
        case.validate_response(response, checks=CHECKS)


# What dawdles on purpose would take all the time there is; its limits are tested elsewhere.
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path="/commands/dawdle")
hurried = settings(
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server for these requests alone: they also pause projections, which other tests ask."""
    server = Server()
    yield server
    server.stop()


@schema.parametrize()
@hurried
def test_a_real_server_keeps_its_description_whatever_is_sent(case: Any, own_server: Server) -> None:
    honest(case, case.call(base_url=own_server.url, timeout=60))


def test_every_path_is_described(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        *(f"/commands/{name}" for name in ("deposit", "withdraw", "transfer", "close", "break", "dawdle")),
        *(f"/queries/{name}" for name in ("balance-of", "balances", "broken", "long")),
        *("/projections", "/projections/rebuild", "/projections/{name}", "/projections/{name}/actions"),
        "/projections/{name}/parked",
        *(f"/projections/{{name}}/{verb}" for verb in VERBS),
        *("/log", "/log/move", "/events", "/status", "/metrics", "/health/live", "/health/ready"),
        *("/session", "/session/begin", "/session/end"),
    }


def test_a_command_is_described_by_its_type() -> None:
    post = DOCUMENT["paths"]["/commands/deposit"]["post"]
    assert post["summary"] == "Put money into an account."
    (schema,) = [content["schema"] for content in post["requestBody"]["content"].values()]
    deposit = SHARED[schema["$ref"].rpartition("/")[2]]
    assert deposit["required"] == ["account_id", "cents"]
    assert deposit["additionalProperties"] is False
    assert deposit["properties"]["cents"] == {"type": "integer", "minimum": 1, "maximum": 100_000_000}
    assert set(post["responses"]) >= {"200", "400", "409", "413", "415", "422", "503"}
    assert "Twofold-Position" in post["responses"]["200"]["headers"]


def test_a_query_is_described_by_the_fields_of_its_type() -> None:
    get = DOCUMENT["paths"]["/queries/balances"]["get"]
    parameters = {one["name"]: one for one in get["parameters"] if one["in"] == "query"}
    assert set(parameters) == {"account_ids", "least", "since", "order", "position"}
    assert parameters["account_ids"]["schema"]["type"] == "array"
    content = get["responses"]["200"]["content"]
    assert content["application/json"]["schema"]["properties"]["answer"]["type"] == "array"
    assert "text/event-stream" in content


@pytest.mark.parametrize("name", sorted(SHARED))
def test_every_example_fits_its_schema(name: str) -> None:
    whole = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    example = example_of(SHARED[name], SHARED)
    assert jsonschema_rs.is_valid(whole, example), example


@pytest.mark.parametrize("name", ["deposit", "withdraw", "break", "dawdle"])
def test_the_example_of_a_command_is_accepted(http: httpx.Client, name: str) -> None:
    post = DOCUMENT["paths"][f"/commands/{name}"]["post"]
    (content,) = post["requestBody"]["content"].values()
    expected = 500 if name == "break" else 200
    answer = http.post(f"/commands/{name}", json=content["example"], headers={"Idempotency-Key": f"example-{name}"})
    assert answer.status_code in (expected, 422)


class Recursive(msgspec.Struct, frozen=True):
    children: "list[Recursive]"
    parent: "Recursive | None" = None


def test_the_example_of_a_record_that_holds_itself_ends() -> None:
    _, shared = open_bank().messages.schemas([Recursive])
    assert example_of(shared["Recursive"], shared)["children"]


# ----------------------------------------------------------------------------------------------------------------- page


def test_the_page_shows_every_operation_with_a_line_for_the_shell(http: httpx.Client) -> None:
    page = html.unescape(http.get("/docs").text)
    for path in DOCUMENT["paths"]:
        assert f"<code>{path}</code>" in page
        assert f"$HOST{path.replace('{name}', 'advisor')}" in page
    assert "Put money into an account." in page


def test_every_problem_links_to_its_section_of_the_page(http: httpx.Client) -> None:
    page = http.get("/docs").text
    for address in ("/commands/nope", "/queries/balance-of", "/events?limit=x"):
        link = http.get(address).json()["type"]
        assert f'id="{link.partition("#")[2]}"' in page


def test_the_page_needs_no_other_site_and_no_inline_code(http: httpx.Client) -> None:
    page = http.get("/docs").text
    for address in re.findall(r'(?:src|href)="([^"#][^"]*)"', page):
        assert address == "data:," or http.get(address).status_code == 200, address
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)


def test_words_of_the_domain_are_text_on_the_page() -> None:
    class Evil(msgspec.Struct, frozen=True):
        """<script>alert(1)</script> & "quoted"."""

    async def evil(query: Evil) -> int:
        return 0

    evil.__annotations__ = {"query": Evil, "return": int}
    page = page_of(describe(App(Module("<b>", queries=[evil])), SHORT)).decode()
    assert "<b>" not in page.replace("<b>required</b>", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quoted&#34;." in page
