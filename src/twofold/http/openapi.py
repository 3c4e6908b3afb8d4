"""In charge of the description of the wire: an OpenAPI 3.1 document made from the types, and from nothing else."""

import inspect
from typing import Any, cast

from twofold.app import App, Receipt
from twofold.errors import WiringError
from twofold.http.command_routes import WAIT_FOR, names_to_wait_for
from twofold.http.event_routes import MOST_EVENTS, EventPage, ShownEvent
from twofold.http.examples import example_of
from twofold.http.health_routes import Health
from twofold.http.limits import Limits
from twofold.http.parameters import POSITION, parameters_of
from twofold.http.problems import KINDS, Problem
from twofold.http.projection_routes import (
    MOST_ACTS,
    SEVERAL,
    VERBS,
    Acts,
    Begun,
    Followed,
    Following,
    Several,
    followed_names,
)
from twofold.http.query_routes import QueryAnswer
from twofold.status import Status

Json = dict[str, Any]

MAX_INTEGER = 2**53

_OPERATING = dict.fromkeys(
    [Following, Followed, Acts, Begun, Several, *(kind for verb in VERBS.values() for kind in (verb.body, verb.answer))]
)
_TOKEN: Json = {"type": "string", "description": "A position in the log, opaque: the token of a receipt or an answer."}
_POSITION = {"Twofold-Position": {"description": "Up to where this knows the log.", "schema": {"type": "string"}}}
_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_REPLAY = {
    "Idempotent-Replay": {"description": "`true`: this is the first receipt again.", "schema": {"type": "string"}}
}


def describe(app: App, limits: Limits) -> Json:
    """The OpenAPI document of an app. WiringError where a type has no JSON Schema."""
    commands = dict(app.wiring.commands)
    queries = {name: function.query for name, function in app.queries.by_name.items()}
    answers = {name: function.returns for name, function in app.queries.by_name.items()}
    own = [Receipt, QueryAnswer, EventPage, Status, Health, Problem, ShownEvent, *_OPERATING]
    kinds = [*commands.values(), *queries.values(), *answers.values(), *own]
    try:
        schemas, shared = app.messages.schemas(kinds)
    except (TypeError, NotImplementedError) as error:
        raise WiringError(f"A message type has no JSON Schema: {error}. Use types that JSON can tell.") from error
    by_kind = iter(schemas)
    command_schemas = dict(zip(commands, by_kind, strict=False))
    query_schemas = {name: _resolved(next(by_kind), shared) for name in queries}
    answer_schemas = {name: next(by_kind) for name in answers}
    parts = {kind.__name__: next(by_kind) for kind in own}
    _tighten(shared)
    shared["Problem"]["properties"]["reasons"] = {"type": "array", "items": {"type": "string"}}
    paths: Json = {}
    waits = names_to_wait_for(app)
    for name, kind in commands.items():
        paths[f"/commands/{name}"] = {"post": _command(name, kind, command_schemas[name], shared, limits, waits)}
    for name, kind in queries.items():
        answer = _answer(answer_schemas[name], shared)
        paths[f"/queries/{name}"] = {"get": _query(name, kind, query_schemas[name], answer)}
    paths |= _own_paths(parts, sorted(app.wiring.events)) | _operating_paths(parts, shared, app)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": " and ".join(module.name for module in app.wiring.modules[:3]) or "Twofold",
            "version": "1",
            "summary": "Commands change things and answer with a receipt; queries answer from read models.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": dict(sorted(shared.items()))},
        "tags": [{"name": name} for name in ("Commands", "Queries", "Log", "Projections", "Health")],
    }


def _command(name: str, kind: type, schema: Json, shared: Json, limits: Limits, waits: list[str]) -> Json:
    receipt = _json({"$ref": "#/components/schemas/Receipt"}, "The events are durable.")
    receipt["headers"] = _POSITION | _REPLAY
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The command's id. Sent again under the same key, it takes effect once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": limits.key_length, "pattern": "^[!-~]+$"},
    }
    wait_for = {
        "name": WAIT_FOR,
        "in": "query",
        "required": False,
        "explode": True,
        "description": "Projections and policies that are to have taken the events before the receipt comes.",
        "schema": {"type": "array", "minItems": 1, "items": _one_of(waits)},
    }
    return {
        "operationId": f"command-{name}",
        "tags": ["Commands"],
        **_said(kind),
        "parameters": [key, *([wait_for] if waits else [])],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example_of(schema, shared)}},
        },
        "responses": {"200": receipt, **_problems("400 403 408 409 413 415 422 431 503")},
    }


def _query(name: str, kind: type, schema: Json, answer: Json) -> Json:
    parameters = [
        {
            "name": each.name,
            "in": "query",
            "required": each.required,
            "schema": schema["properties"][each.name],
            **({"style": "form", "explode": True} if each.many else {}),
        }
        for each in parameters_of(kind).values()
    ]
    parameters.append({"name": POSITION, "in": "query", "required": False, "schema": _TOKEN})
    parameters.append({"name": "Twofold-Position", "in": "header", "required": False, "schema": _TOKEN})
    return {
        "operationId": f"query-{name}",
        "tags": ["Queries"],
        **_said(kind),
        "parameters": parameters,
        "responses": {
            "200": _streamed(answer, "The answer; as a stream, event `answer` whenever it has become another."),
            **_problems("400 403 404 431 503"),
        },
    }


def _answer(schema: Json, shared: Json) -> Json:
    whole = shared["QueryAnswer"]
    return {**whole, "properties": {**whole["properties"], "answer": schema}}


def _own_paths(parts: Json, events: list[str]) -> Json:
    def get(name: str, tag: str, summary: str, parameters: list[Json], answer: Json, codes: str) -> Json:
        responses = {"200": answer, **_problems(codes)}
        one = {"operationId": name, "tags": [tag], "summary": summary, "parameters": parameters, "responses": responses}
        return {"get": one}

    def several(name: str, items: Json, text: str) -> Json:
        schema = {"type": "array", "items": items}
        return {"name": name, "in": "query", "required": False, "schema": schema, "explode": True, "description": text}

    limit = {"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": 100}
    log_parameters = [
        {"name": "after", "in": "query", "required": False, "schema": _TOKEN},
        several("type", {"type": "string", "enum": events} if events else {"type": "string"}, "Any of these types."),
        several("tag", {"type": "string", "pattern": "^[^:]+:.+$"}, "All of these tags, each `kind:value`."),
        {"name": "limit", "in": "query", "required": False, "schema": limit},
    ]
    page = _streamed(parts["EventPage"], "Events in order; as a stream, event `event` as the log grows.")
    status = _streamed(parts["Status"], "The numbers; as a stream, event `status` once a second.", position=False)
    health = _json(parts["Health"], "All is well.")
    common = "403 431"
    return {
        "/events": get("events", "Log", "Read or follow the log", log_parameters, page, f"400 {common} 503"),
        "/status": get("status", "Health", "How the app is doing", [], status, f"400 {common} 503"),
        "/health/live": get("live", "Health", "Whether the process answers", [], health, f"400 {common}"),
        "/health/ready": get("ready", "Health", "Whether to send requests here", [], health, f"400 {common} 503"),
    }


def _operating_paths(parts: Json, shared: Json, app: App) -> Json:
    """What operators ask and do. Without any follower there is only the list of them, which is empty."""

    def one(
        name: str, summary: str, parameters: list[Json], answer: Json, codes: str, body: type | None = None
    ) -> Json:
        described: Json = {
            "operationId": name,
            "tags": ["Projections"],
            "summary": summary,
            "parameters": parameters,
            "responses": {"200": answer, **_problems(codes)},
        }
        if body is None:
            return {"get": described}
        example = example_of(parts[body.__name__], shared)
        content = {"schema": parts[body.__name__], "example": _with_names(example, sorted(app.models))}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
        return {"post": described}

    reading, doing = "400 403 404 431 503", "400 403 404 408 409 413 415 431 503"
    paths = {
        "/projections": one(
            "projections", "How all that follows the log is doing", [], _json(parts["Following"], "All of it."), reading
        ),
        "/metrics": _metrics(),
    }
    names = followed_names(app)
    if not names:
        return paths
    name = {"name": "name", "in": "path", "required": True, "schema": _one_of(names)}
    limit = {"type": "integer", "minimum": 1, "maximum": MOST_ACTS, "default": 100}
    acts = [name, {"name": "limit", "in": "query", "required": False, "schema": limit}]
    paths["/projections/{name}"] = one(
        "projection", "How one projection or policy is doing", [name], _json(parts["Followed"], "This one."), reading
    )
    paths["/projections/{name}/acts"] = one(
        "acts", "What operators did to it lately", acts, _json(parts["Acts"], "The oldest first."), reading
    )
    paths[f"/projections/{SEVERAL}"] = one(
        "rebuild-several",
        "Build several projections in one pass over the log",
        [],
        _json(parts["Begun"], "Begun."),
        doing,
        Several,
    )
    for word, verb in VERBS.items():
        answer = _json(parts[verb.answer.__name__], "It is done.")
        paths[f"/projections/{{name}}/{word}"] = one(word, verb.summary, [name], answer, doing, verb.body)
    return paths


def _metrics() -> Json:
    text = {"description": "The numbers.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "get": {
            "operationId": "metrics",
            "tags": ["Health"],
            "summary": "The numbers as Prometheus collects them",
            "parameters": [],
            "responses": {"200": text, **_problems("400 403 431 503")},
        }
    }


def _one_of(names: list[str]) -> Json:
    return {"type": "string", "enum": names} if names else {"type": "string"}


def _with_names(example: Any, names: list[str]) -> Any:
    """An example of a body that can be sent as it is."""
    return {**example, "names": names[:1]} if "names" in example and names else example


def _json(schema: Json, text: str) -> Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _streamed(schema: Json, text: str, *, position: bool = True) -> Json:
    answer = _json(schema, text)
    answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    if position:
        answer["headers"] = _POSITION
    return answer


def _problems(codes: str) -> Json:
    found: Json = {}
    for code in codes.split():
        titles = [kind.title for kind in KINDS.values() if kind.status == int(code)]
        found[code] = {
            "description": ", or: ".join(titles) + ".",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if code == "503":
            found[code]["headers"] = _AFTER
    return found


def _said(kind: type) -> Json:
    """What the type's own docstring says; the one a dataclass gives itself says nothing."""
    text = inspect.cleandoc(kind.__doc__ or "")
    if not text or text.startswith(f"{kind.__name__}("):
        return {"summary": kind.__name__}
    first, _, rest = text.partition("\n\n")
    return {"summary": " ".join(first.split()), **({"description": rest.strip()} if rest.strip() else {})}


def _resolved(schema: Json, shared: Json) -> Json:
    reference = schema.get("$ref", "")
    found: Json = shared.get(reference.rpartition("/")[2], schema)
    return found


def _tighten(schema: Any) -> None:
    """Say what the edge demands of every message: no unknown fields, and no integer that some reader would round."""
    if isinstance(schema, list):
        each: Any
        for each in schema:  # pyright: ignore[reportUnknownVariableType]
            _tighten(each)
    if isinstance(schema, dict):
        _tighten_object(cast("Json", schema))


def _tighten_object(schema: Json) -> None:
    for each in schema.values():
        _tighten(each)
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    elif schema.get("type") == "integer":
        if "exclusiveMinimum" not in schema:
            schema.setdefault("minimum", -MAX_INTEGER)
        if "exclusiveMaximum" not in schema:
            schema.setdefault("maximum", MAX_INTEGER)
