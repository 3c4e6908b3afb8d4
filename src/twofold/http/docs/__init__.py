"""`/openapi.json`, and `/docs`: the page that shows it, without other servers and without inline code."""

import json
import shlex
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from twofold.access.rules import PUBLIC
from twofold.http.examples import example_of, resolved
from twofold.http.exchange import Exchange, Handler, Route
from twofold.http.problems import KINDS

_HERE = Path(__file__).parent

Json = dict[str, Any]


def docs_routes(document: Json) -> dict[str, Route]:
    """The routes of the description. It is rendered once: it does not change while the process runs."""
    script = (_HERE / "docs.js").read_bytes()
    style = (_HERE / "docs.css").read_bytes()
    return {
        "/openapi.json": Route("GET", PUBLIC, _document_handler(document)),
        # The links of the page are relative, so that it is the same under every root path.
        "/docs": _file(page_of(document), b"text/html; charset=utf-8"),
        "/docs/docs.js": _file(script, b"text/javascript; charset=utf-8"),
        "/docs/docs.css": _file(style, b"text/css; charset=utf-8"),
    }


def entry_routes(document: Json, mounts: Iterable[str]) -> dict[str, Route]:
    """The route `/` of an app without pages: links to its description, and to what is mounted beside it."""
    title = document["info"]["title"]
    links = {"docs": "docs", "openapi": "openapi.json", **{path.strip("/"): f"{path.strip('/')}/" for path in mounts}}
    page = _environment().get_template("entry.html").render(title=title, links=links).encode()

    async def handle(exchange: Exchange) -> None:
        headers = [(b"cache-control", b"no-cache"), (b"vary", b"Accept")]
        if not exchange.path and exchange.root:
            # Relative links need the slash.
            await exchange.answer(307, [(b"location", f"{exchange.root}/".encode())], b"")
        elif b"text/html" in exchange.headers.get(b"accept", b""):
            await exchange.answer(200, [(b"content-type", b"text/html; charset=utf-8"), *headers], page)
        else:
            body = {"title": title, "links": {name: f"{exchange.root}/{path}" for name, path in links.items()}}
            await exchange.answer(200, [(b"content-type", b"application/json"), *headers], msgspec.json.encode(body))

    return {"/": Route("GET", PUBLIC, handle), "": Route("GET", PUBLIC, handle)}


def _document_handler(document: Json) -> Handler:
    @lru_cache(maxsize=8)
    def under(root: str) -> bytes:
        return msgspec.json.encode({**document, "servers": [{"url": root or "/"}]})

    async def handle(exchange: Exchange) -> None:
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache")]
        await exchange.answer(200, headers, under(exchange.root))

    return handle


def _file(content: bytes, kind: bytes) -> Route:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, [(b"content-type", kind), (b"cache-control", b"no-cache")], content)

    return Route("GET", PUBLIC, handle)


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def page_of(document: Json) -> bytes:
    shared = document["components"]["schemas"]
    operations = [
        _operation(path, method, operation, shared)
        for path, offered in document["paths"].items()
        for method, operation in offered.items()
    ]
    groups = [(tag["name"], [one for one in operations if one["tag"] == tag["name"]]) for tag in document["tags"]]
    page = (
        _environment()
        .get_template("page.html")
        .render(
            info=document["info"],
            groups=[group for group in groups if group[1]],
            schemas={name: _pretty(schema) for name, schema in shared.items()},
            problems=KINDS,
        )
    )
    return page.encode()


def _operation(path: str, method: str, operation: Json, shared: Json) -> Json:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    answer = operation["responses"]["200"]["content"]
    content = answer.get("application/json") or next(iter(answer.values()))
    parameters = [
        {
            **parameter,
            "kind": _kind(parameter["schema"]),
            "text": parameter.get("description") or parameter["schema"].get("description", ""),
            # A path needs all its parts, so the page fills them in.
            "value": example_of(parameter["schema"], shared, parameter["name"]) if parameter["in"] == "path" else "",
        }
        for parameter in operation["parameters"]
    ]
    example = _pretty(body["example"]) if body else ""
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "path": path,
        "label": path.strip("/") if path.endswith("}") else path.rpartition("/")[2],
        "method": method.upper(),
        "summary": operation["summary"],
        "description": operation.get("description", ""),
        "parameters": parameters,
        "body": _pretty(resolved(body["schema"], shared)) if body else "",
        "example": example,
        "answer": _pretty(resolved(content["schema"], shared)),
        "answer_example": _pretty(example_of(content["schema"], shared)),
        "streams": "text/event-stream" in answer,
        "curl": _curl(path, method.upper(), parameters, body["example"] if body else None, shared),
        "problems": [code for code in operation["responses"] if code != "200"],
    }


def _curl(path: str, method: str, parameters: list[Json], example: Any, shared: Json) -> str:
    """A command for a shell; the page replaces `$HOST` by the address of the server."""
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(parameter["value"], safe=""))
    if method == "POST":
        sent = shlex.quote(json.dumps(example, ensure_ascii=False))
        return f"curl -H 'Content-Type: application/json' -d {sent} $HOST{path}"
    required = [one for one in parameters if one["required"] and one["in"] == "query"]
    given = [f"--data-urlencode {shlex.quote(_pair(one, shared))}" for one in required]
    return " ".join(["curl", *(["-G", *given] if given else []), f"$HOST{path}"])


def _pair(parameter: Json, shared: Json) -> str:
    value = example_of(parameter["schema"], shared, parameter["name"])
    first: object = value[0] if parameter["schema"].get("type") == "array" else value
    return f"{parameter['name']}={first if isinstance(first, str) else json.dumps(first)}"


def _kind(schema: Json) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(member) for member in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"{_kind(schema['items'])}, may be repeated"
    named: str = schema.get("format") or schema.get("type") or schema.get("$ref", "anything").rpartition("/")[2]
    return named


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
