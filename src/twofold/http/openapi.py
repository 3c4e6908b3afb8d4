"""The description of the HTTP API: an OpenAPI 3.1 document made from the types only."""

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any, cast

from twofold.app import App
from twofold.codec.edge import MAX_INTEGER
from twofold.errors import WiringError
from twofold.health import HealthReport
from twofold.http.command_routes import WAIT_FOR, names_to_wait_for
from twofold.http.event_records import EventPage, EventRecord
from twofold.http.event_routes import MAX_EVENTS, MAX_LAST
from twofold.http.examples import example_of, resolved
from twofold.http.health_routes import Alive, not_ready_schema
from twofold.http.limits import Limits
from twofold.http.log_routes import LogReport, MoveBody
from twofold.http.openapi_security import add_security
from twofold.http.parameters import POSITION, parameters_of
from twofold.http.problems import KINDS, Problem
from twofold.http.projection_routes import BODIES_AND_ANSWERS, MAX_ACTIONS, REBUILD, VERBS, followed_names
from twofold.http.query_routes import QueryAnswer
from twofold.http.role_paths import serves
from twofold.http.session_routes import Session
from twofold.online_move import MoveStatus
from twofold.receipt import Receipt
from twofold.status import Status

Json = dict[str, Any]

_REFERENCE = re.compile('"#/components/schemas/([^"]+)"')
_READING_CODES = "400 403 431 500 503"
_TOKEN: Json = {"type": "string", "description": "A position in the log, opaque: the token of a receipt or an answer."}
_POSITION = {
    "Twofold-Position": {"description": "The position up to which this knows the log.", "schema": {"type": "string"}}
}
_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_REPLAY = {
    "Idempotent-Replay": {"description": "`true`: this is the first receipt again.", "schema": {"type": "string"}},
    "Idempotency-Key-Seconds": {
        "description": "For so many seconds from now, at least, a repeat under this key gets this receipt.",
        "schema": {"type": "integer", "minimum": 0},
    },
}


def describe(app: App, limits: Limits) -> Json:
    """The OpenAPI document of an app. WiringError where a type has no JSON Schema."""
    commands = app.public_commands
    queries = app.public_queries
    answers = {name: app.queries.by_name[name].returns for name in queries}
    own: list[type] = [Receipt, QueryAnswer, EventPage, Status, HealthReport, Alive, Problem, EventRecord]
    own += [Session, LogReport, MoveBody, MoveStatus, *BODIES_AND_ANSWERS]
    kinds = [*commands.values(), *queries.values(), *answers.values(), *own]
    try:
        schemas, shared = app.messages.schemas(kinds)
    except (TypeError, NotImplementedError) as error:
        raise WiringError(f"A message type has no JSON Schema: {error}. Use types that JSON can express.") from error
    by_kind = iter(schemas)
    command_schemas = dict(zip(commands, by_kind, strict=False))
    query_schemas = {name: resolved(next(by_kind), shared) for name in queries}
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
    paths |= _own_paths(parts, sorted(app.wiring.events)) | _log_paths(parts, shared)
    paths |= _projection_paths(parts, shared, app) | _session_paths(parts)
    paths = {path: offered for path, offered in paths.items() if serves(app.roles, path)}
    shared = _referenced(paths, shared)
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": " and ".join(module.name for module in app.wiring.modules[:3]) or "Twofold",
            "version": "1",
            "summary": "Commands change state and answer with a receipt. Queries answer from read models.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": dict(sorted(shared.items()))},
        "tags": [{"name": name} for name in ("Commands", "Queries", "Log", "Projections", "Session", "Health")],
    }
    add_security(document, app.access, app.authentication)
    return document


def _operation(
    name: str, tag: str, about: Json | str, answer: Json, codes: str, parameters: Sequence[Json] = (), **body: Any
) -> Json:
    """One operation, by its method. `codes` are the statuses of its problems; `about` is its `summary`, or has it."""
    summary = {"summary": about} if isinstance(about, str) else about
    operation: Json = {"operationId": name, "tags": [tag], **summary, "parameters": list(parameters)}
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    operation["responses"] = {"200": answer, **_problems(codes)}
    return {"post" if body else "get": operation}


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
    codes = "400 403 408 409 413 415 422 431 500 503"
    return _operation(f"command-{name}", "Commands", _about(kind), receipt, codes, parameters, **body)


def _query(name: str, kind: type, schema: Json, answer: Json) -> Json:
    parameters: list[Json] = []
    for field in parameters_of(kind).values():
        style = {"style": "form", "explode": True} if field.many else {}
        parameter = _parameter(field.name, "query", schema["properties"][field.name], **style)
        parameters.append({**parameter, "required": field.required})
    parameters.append(_parameter(POSITION, "query", _TOKEN))
    parameters.append(_parameter("Twofold-Position", "header", _TOKEN))
    answered = _streamed(answer, "The answer; as a stream, event `answer` whenever it has changed.")
    return _operation(f"query-{name}", "Queries", _about(kind), answered, "400 403 404 431 500 503", parameters)


def _answer(schema: Json, shared: Json) -> Json:
    whole = shared["QueryAnswer"]
    return {**whole, "properties": {**whole["properties"], "answer": schema}}


def _own_paths(parts: Json, events: list[str]) -> Json:
    types = _parameter("type", "query", _many(_one_of(events)), explode=True, description="Any of these types.")
    tag: Json = {"type": "string", "pattern": "^[^:]+:.+$"}
    text = "All of these tags, each `kind:value`."
    tags = _parameter("tag", "query", _many(tag), explode=True, description=text)
    count: Json = {"type": "integer", "minimum": 0, "maximum": MAX_LAST}
    last = _parameter("last", "query", count, description="Start this many positions before the head.")
    of_log = [_parameter("after", "query", _TOKEN), last, types, tags, _limit(MAX_EVENTS)]
    page = _streamed(parts["EventPage"], "Events in order; as a stream, event `event` as the log grows.")
    status = _streamed(parts["Status"], "The status; as a stream, event `status` once a second.", position=False)
    alive = _json(parts["Alive"], "The process answers.")
    ready = _json(parts["HealthReport"], "Send requests here. If `level` is degraded, an operator must act.")
    sides = [_parameter("side", "query", {"type": "string", "enum": ["command", "query"]})]
    metrics = {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths = {
        "/events": _operation("events", "Log", "Read or follow the log", page, _READING_CODES, of_log),
        "/status": _operation("status", "Health", "The status of the app", status, _READING_CODES),
        "/metrics": _operation("metrics", "Health", "The metrics for Prometheus", metrics, _READING_CODES),
        "/health/live": _operation("live", "Health", "Whether the process answers", alive, "400 403 431"),
        "/health/ready": _operation("ready", "Health", "Whether to send requests here", ready, _READING_CODES, sides),
    }
    not_ready = paths["/health/ready"]["get"]["responses"]["503"]["content"]["application/problem+json"]
    not_ready["schema"] = {"$ref": "#/components/schemas/NotReady"}
    return paths


def _log_paths(parts: Json, shared: Json) -> Json:
    report, moved = _json(parts["LogReport"], "The log."), _json(parts["MoveStatus"], "How far the move is.")
    body = {"schema": parts["MoveBody"], "example": example_of(parts["MoveBody"], shared)}
    codes = "400 403 408 409 413 415 431 500 503"
    return {
        "/log": _operation("log", "Log", "Which log the app uses, and its move", report, _READING_CODES),
        "/log/move": _operation("move-log", "Log", "Move the log to another write store", moved, codes, **body),
    }


def _session_paths(parts: Json) -> Json:
    session, codes = _json(parts["Session"], "Who is logged in."), "400 403 431 500 503"
    begin = _operation(
        "begin-session", "Session", "Log in a browser: `Authorization` once, then a cookie", session, codes
    )
    end = _operation("end-session", "Session", "Log out", session, codes)
    begin, end = ({"post": each["get"]} for each in (begin, end))
    begin["post"]["responses"] |= {"401": _problems("401")["401"]}
    show = _operation("session", "Session", "Who is logged in", session, codes)
    return {"/session": show, "/session/begin": begin, "/session/end": end}


def _projection_paths(parts: Json, shared: Json, app: App) -> Json:
    """What operators read and do. An app without followers has only the list of them, which is empty."""
    names = followed_names(app)
    name, key = _parameter("name", "path", _one_of(names)), _parameter("key", "query", {"type": "string"})

    def read(word: str, summary: str, kind: str, text: str, parameters: Sequence[Json] = ()) -> Json:
        answer = _json(parts[kind], text)
        return _operation(word, "Projections", summary, answer, "400 403 404 431 500 503", parameters)

    def do(word: str, summary: str, body: str, kind: str, text: str, parameters: Sequence[Json] = ()) -> Json:
        example = _with_names(example_of(parts[body], shared), sorted(app.models))
        answer, codes = _json(parts[kind], text), "400 403 404 408 409 413 415 431 500 503"
        return _operation(word, "Projections", summary, answer, codes, parameters, schema=parts[body], example=example)

    paths = {"/projections": read("projections", "All projections and policies", "AllProjections", "All of them.")}
    if not names:
        return paths
    one, some = "/projections/{name}", [name, _limit(MAX_ACTIONS)]
    paths |= {
        one: read("projection", "One projection or policy", "OneProjection", "This projection or policy.", [name]),
        f"{one}/actions": read("actions", "What operators did to it", "ActionList", "The oldest first.", some),
        f"{one}/parked": read("parked", "What it has parked", "ParkedKeys", "The first ones.", [*some, key]),
        f"/projections/{REBUILD}": do(
            "rebuild-several", "Rebuild several projections in one pass", "NamesBody", "RebuildStarted", "Started."
        ),
    }
    for word, verb in VERBS.items():
        paths[f"{one}/{word}"] = do(word, verb.summary, verb.body.__name__, verb.answer.__name__, "Done.", [name])
    return paths


def _many(items: Json) -> Json:
    return {"type": "array", "items": items}


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


def _referenced(paths: Json, shared: Json) -> Json:
    """The shared schemas that these paths refer to, themselves or by others."""
    found: Json = {}
    todo = [json.dumps(paths)]
    while todo:
        for name in _REFERENCE.findall(todo.pop()):
            if name not in found:
                found[name] = shared[name]
                todo.append(json.dumps(shared[name]))
    return found


def _tighten(schema: Any) -> None:
    """Add what every message must satisfy: no unknown fields, and no integer that some reader would round."""
    item: Any
    if isinstance(schema, list):
        for item in schema:  # pyright: ignore[reportUnknownVariableType]
            _tighten(item)
    if not isinstance(schema, dict):
        return
    members = cast("Json", schema)
    for inner in members.values():
        _tighten(inner)
    if members.get("type") == "object" and "properties" in members:
        members.setdefault("additionalProperties", False)
    elif members.get("type") == "integer":
        if "exclusiveMinimum" not in members:
            members.setdefault("minimum", -MAX_INTEGER)
        if "exclusiveMaximum" not in members:
            members.setdefault("maximum", MAX_INTEGER)
