"""The description of the HTTP API: an OpenAPI 3.1 document made from the types only."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

from twofold.app import App, Receipt
from twofold.codec.edge import MAX_INTEGER
from twofold.errors import WiringError
from twofold.health import HealthReport
from twofold.http.command_routes import WAIT_FOR, names_to_wait_for
from twofold.http.event_routes import MAX_EVENTS, EventPage, EventRecord
from twofold.http.examples import example_of
from twofold.http.health_routes import Alive, not_ready_schema
from twofold.http.limits import Limits
from twofold.http.parameters import POSITION, parameters_of
from twofold.http.problems import KINDS, Problem
from twofold.http.projection_routes import (
    MAX_ACTIONS,
    REBUILD,
    VERBS,
    ActionList,
    AllProjections,
    NamesBody,
    OneProjection,
    ParkedKeys,
    RebuildStarted,
    followed_names,
)
from twofold.http.query_routes import QueryAnswer
from twofold.status import Status

Json = dict[str, Any]

_OPERATING = dict.fromkeys(
    [
        *(AllProjections, OneProjection, ActionList, ParkedKeys, RebuildStarted, NamesBody),
        *(kind for verb in VERBS.values() for kind in (verb.body, verb.answer)),
    ]
)
_READING_CODES = "400 403 431 503"
_TOKEN: Json = {"type": "string", "description": "A position in the log, opaque: the token of a receipt or an answer."}
_POSITION = {
    "Twofold-Position": {"description": "The position up to which this knows the log.", "schema": {"type": "string"}}
}
_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_REPLAY = {
    "Idempotent-Replay": {"description": "`true`: this is the first receipt again.", "schema": {"type": "string"}}
}


def describe(app: App, limits: Limits) -> Json:
    """The OpenAPI document of an app. WiringError where a type has no JSON Schema."""
    commands = dict(app.wiring.commands)
    queries = {name: function.query for name, function in app.queries.by_name.items()}
    answers = {name: function.returns for name, function in app.queries.by_name.items()}
    own = [Receipt, QueryAnswer, EventPage, Status, HealthReport, Alive, Problem, EventRecord, *_OPERATING]
    kinds = [*commands.values(), *queries.values(), *answers.values(), *own]
    try:
        schemas, shared = app.messages.schemas(kinds)
    except (TypeError, NotImplementedError) as error:
        raise WiringError(f"A message type has no JSON Schema: {error}. Use types that JSON can express.") from error
    by_kind = iter(schemas)
    command_schemas = dict(zip(commands, by_kind, strict=False))
    query_schemas = {name: _resolved(next(by_kind), shared) for name in queries}
    answer_schemas = {name: next(by_kind) for name in answers}
    parts = {kind.__name__: next(by_kind) for kind in own}
    _tighten(shared)
    shared["NotReady"] = not_ready_schema(shared)
    paths: Json = {}
    waits = names_to_wait_for(app)
    for name, kind in commands.items():
        paths[f"/commands/{name}"] = _command(name, kind, command_schemas[name], shared, limits, waits)
    for name, kind in queries.items():
        answer = _answer(answer_schemas[name], shared)
        paths[f"/queries/{name}"] = _query(name, kind, query_schemas[name], answer)
    paths |= _own_paths(parts, sorted(app.wiring.events)) | _projection_paths(parts, shared, app)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": " and ".join(module.name for module in app.wiring.modules[:3]) or "Twofold",
            "version": "1",
            "summary": "Commands change state and answer with a receipt. Queries answer from read models.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": dict(sorted(shared.items()))},
        "tags": [{"name": name} for name in ("Commands", "Queries", "Log", "Projections", "Health")],
    }


def _operation(
    name: str,
    tag: str,
    about: Json,
    answer: Json,
    codes: str,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
) -> Json:
    """One operation, by its method. `codes` are the statuses of its problems; `about` has its `summary`."""
    operation: Json = {"operationId": name, "tags": [tag], **about, "parameters": list(parameters)}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    operation["responses"] = {"200": answer, **_problems(codes)}
    return {"get" if body is None else "post": operation}


def _parameter(name: str, place: str, schema: Json, **more: Any) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, **more}


def _limit(most: int) -> Json:
    return _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": most, "default": 100})


def _command(name: str, kind: type, schema: Json, shared: Json, limits: Limits, waits: list[str]) -> Json:
    receipt = _json({"$ref": "#/components/schemas/Receipt"}, "The events are durable.")
    receipt["headers"] = _POSITION | _REPLAY
    key = {"type": "string", "minLength": 1, "maxLength": limits.key_length, "pattern": "^[!-~]+$"}
    once = "The command's id. Sent again under the same key, it takes effect once."
    parameters = [_parameter("Idempotency-Key", "header", key, description=once)]
    if waits:
        names = {"type": "array", "minItems": 1, "items": _one_of(waits)}
        text = "Projections and policies that must reach the events before the receipt is sent."
        parameters.append(_parameter(WAIT_FOR, "query", names, explode=True, description=text))
    body = {"schema": schema, "example": example_of(schema, shared)}
    codes = "400 403 408 409 413 415 422 431 503"
    return _operation(f"command-{name}", "Commands", _about(kind), receipt, codes, parameters, body)


def _query(name: str, kind: type, schema: Json, answer: Json) -> Json:
    parameters: list[Json] = []
    for field in parameters_of(kind).values():
        style = {"style": "form", "explode": True} if field.many else {}
        parameter = _parameter(field.name, "query", schema["properties"][field.name], **style)
        parameters.append({**parameter, "required": field.required})
    parameters.append(_parameter(POSITION, "query", _TOKEN))
    parameters.append(_parameter("Twofold-Position", "header", _TOKEN))
    answered = _streamed(answer, "The answer; as a stream, event `answer` whenever it has changed.")
    return _operation(f"query-{name}", "Queries", _about(kind), answered, "400 403 404 431 503", parameters)


def _answer(schema: Json, shared: Json) -> Json:
    whole = shared["QueryAnswer"]
    return {**whole, "properties": {**whole["properties"], "answer": schema}}


def _own_paths(parts: Json, events: list[str]) -> Json:
    def repeated(name: str, items: Json, text: str) -> Json:
        return _parameter(name, "query", {"type": "array", "items": items}, explode=True, description=text)

    log_parameters = [
        _parameter("after", "query", _TOKEN),
        repeated("type", _one_of(events), "Any of these types."),
        repeated("tag", {"type": "string", "pattern": "^[^:]+:.+$"}, "All of these tags, each `kind:value`."),
        _limit(MAX_EVENTS),
    ]
    page = _streamed(parts["EventPage"], "Events in order; as a stream, event `event` as the log grows.")
    status = _streamed(parts["Status"], "The status; as a stream, event `status` once a second.", position=False)
    alive = _json(parts["Alive"], "The process answers.")
    ready = _json(parts["HealthReport"], "Send requests here. If `level` is degraded, an operator must act.")
    sides = [_parameter("side", "query", {"type": "string", "enum": ["command", "query"]})]
    text = {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}

    def get(name: str, tag: str, summary: str, answer: Json, codes: str, parameters: Sequence[Json] = ()) -> Json:
        return _operation(name, tag, {"summary": summary}, answer, codes, parameters)

    paths = {
        "/events": get("events", "Log", "Read or follow the log", page, _READING_CODES, log_parameters),
        "/status": get("status", "Health", "The status of the app", status, _READING_CODES),
        "/metrics": get("metrics", "Health", "The metrics for Prometheus", text, _READING_CODES),
        "/health/live": get("live", "Health", "Whether the process answers", alive, "400 403 431"),
        "/health/ready": get("ready", "Health", "Whether to send requests here", ready, _READING_CODES, sides),
    }
    not_ready = paths["/health/ready"]["get"]["responses"]["503"]["content"]["application/problem+json"]
    not_ready["schema"] = {"$ref": "#/components/schemas/NotReady"}
    return paths


def _projection_paths(parts: Json, shared: Json, app: App) -> Json:
    """What operators read and do. An app without followers has only the list of them, which is empty."""
    names = followed_names(app)
    name, key = _parameter("name", "path", _one_of(names)), _parameter("key", "query", {"type": "string"})

    def read(word: str, summary: str, kind: type, text: str, parameters: Sequence[Json] = ()) -> Json:
        answer = _json(parts[kind.__name__], text)
        codes = _READING_CODES.replace("403", "403 404")
        return _operation(word, "Projections", {"summary": summary}, answer, codes, parameters)

    def do(word: str, summary: str, body: type, kind: type, text: str, parameters: Sequence[Json] = ()) -> Json:
        example = _with_names(example_of(parts[body.__name__], shared), sorted(app.models))
        content = {"schema": parts[body.__name__], "example": example}
        answer, codes = _json(parts[kind.__name__], text), "400 403 404 408 409 413 415 431 503"
        return _operation(word, "Projections", {"summary": summary}, answer, codes, parameters, content)

    paths = {"/projections": read("projections", "All projections and policies", AllProjections, "All of them.")}
    if not names:
        return paths
    paths["/projections/{name}"] = read(
        "projection", "One projection or policy", OneProjection, "This projection or policy.", [name]
    )
    paths["/projections/{name}/actions"] = read(
        "actions", "What operators did to it", ActionList, "The oldest first.", [name, _limit(MAX_ACTIONS)]
    )
    paths["/projections/{name}/parked"] = read(
        "parked", "What it has parked", ParkedKeys, "The first ones.", [name, _limit(MAX_ACTIONS), key]
    )
    paths[f"/projections/{REBUILD}"] = do(
        "rebuild-several", "Rebuild several projections in one pass", NamesBody, RebuildStarted, "Started."
    )
    for word, verb in VERBS.items():
        operation = do(word, verb.summary, verb.body, verb.answer, "Done.", [name])
        paths[f"/projections/{{name}}/{word}"] = operation
    return paths


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
    problems: Json = {}
    for code in codes.split():
        titles = [kind.title for kind in KINDS.values() if kind.status == int(code)]
        problems[code] = {
            "description": ", or: ".join(titles) + ".",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if code == "503":
            problems[code]["headers"] = _AFTER
    return problems


def _about(kind: type) -> Json:
    """The docstring of a type, unless it is the one that a dataclass generates."""
    text = inspect.cleandoc(kind.__doc__ or "")
    if not text or text.startswith(f"{kind.__name__}("):
        return {"summary": kind.__name__}
    first, _, rest = text.partition("\n\n")
    return {"summary": " ".join(first.split()), **({"description": rest.strip()} if rest.strip() else {})}


def _resolved(schema: Json, shared: Json) -> Json:
    reference = schema.get("$ref", "")
    resolved: Json = shared.get(reference.rpartition("/")[2], schema)
    return resolved


def _tighten(schema: Any) -> None:
    """Add what every message must satisfy: no unknown fields, and no integer that some reader would round."""
    if isinstance(schema, list):
        item: Any
        for item in schema:  # pyright: ignore[reportUnknownVariableType]
            _tighten(item)
    if isinstance(schema, dict):
        _tighten_object(cast("Json", schema))


def _tighten_object(schema: Json) -> None:
    for inner in schema.values():
        _tighten(inner)
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    elif schema.get("type") == "integer":
        if "exclusiveMinimum" not in schema:
            schema.setdefault("minimum", -MAX_INTEGER)
        if "exclusiveMaximum" not in schema:
            schema.setdefault("maximum", MAX_INTEGER)
