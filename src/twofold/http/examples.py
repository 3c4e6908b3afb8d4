"""Examples: for any schema a value that fits it, and that a reader can start from."""

from typing import Any

_FORMATS: dict[str, str] = {
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "time": "12:00:00",
    "duration": "PT1H",
    "uuid": "6f1c2a9e-6a43-4a53-9d53-1f6c6b0c8f10",
    "decimal": "9.90",
}

_DEEPEST = 8


def example_of(schema: Any, shared: dict[str, Any], name: str = "text", depth: int = 0) -> Any:
    """A value that fits `schema`. Optional fields are left out below some depth, since a type may hold itself."""
    if "$ref" in schema:
        return example_of(resolved(schema, shared), shared, name, depth + 1)
    if schema.get("examples"):
        return schema["examples"][0]
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if "anyOf" in schema:
        members = sorted(schema["anyOf"], key=lambda member: member.get("type") == "null")
        return example_of(members[-1 if depth > _DEEPEST else 0], shared, name, depth + 1)
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, shared, depth)
    if kind == "array":
        return _array(schema, shared, name, depth)
    if kind in ("integer", "number"):
        return _number(schema)
    return _string(schema, name) if kind == "string" else {"boolean": True, "null": None}.get(kind, "anything")


def resolved(schema: Any, shared: dict[str, Any]) -> Any:
    """The schema itself, or the shared one that it refers to."""
    return shared.get(schema.get("$ref", "").rpartition("/")[2], schema)


def _object(schema: Any, shared: dict[str, Any], depth: int) -> Any:
    required = schema.get("required", [])
    return {
        name: example_of(field, shared, name, depth + 1)
        for name, field in schema.get("properties", {}).items()
        if name in required or ("default" not in field and depth <= _DEEPEST)
    }


def _array(schema: Any, shared: dict[str, Any], name: str, depth: int) -> Any:
    if "prefixItems" in schema:
        return [example_of(item, shared, name, depth + 1) for item in schema["prefixItems"]]
    least = schema.get("minItems", 0)
    if depth > _DEEPEST or not isinstance(schema.get("items"), dict):
        return []
    return [example_of(schema["items"], shared, name, depth + 1)] * max(least, 1)


def _number(schema: Any) -> int:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    most = schema.get("maximum", schema.get("exclusiveMaximum", 2) - 1)
    step = schema.get("multipleOf", 1)
    return int(min(max(step, least), most))


def _string(schema: Any, name: str) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = f"{name.removesuffix('_id')}-1".replace("_", "-")
    return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), "x")
