"""What msgspec reports of a value that does not fit its type, in our words: the field, and what it must be."""

import re
from collections.abc import Callable
from typing import NamedTuple

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "datetime": "a date and time such as 2026-01-31T12:00:00Z",
    "date": "a date such as 2026-01-31",
    "time": "a time such as 12:00:00",
    "duration": "a duration such as PT90S",
    "uuid": "a UUID",
    "decimal": "a decimal number",
    "bytes": "text in Base64",
}
_LIMITS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(?P<place>.*)`$")


class MisfitSentence(NamedTuple):
    """The path of the field that does not fit ("" for the whole), and what is wrong with it, to stand behind its name.

    For example `items[1].count` and "must be at least 1".
    """

    field: str
    problem: str

    def about(self, whole: str) -> str:
        """The sentence, without a full stop. `whole` names the value where no field of it is the cause."""
        return f"{self.field or whole} {self.problem}"


def misfit_sentence(error: Exception) -> MisfitSentence:
    """A `msgspec.ValidationError` in our words. What a type's own check has raised stays as it is."""
    text = str(error)
    found = _PLACE.search(text)
    field, text = (found["place"], text[: found.start()]) if found else ("", text)
    for pattern, sentence in _SENTENCES:
        if match := re.fullmatch(pattern, text, re.DOTALL):
            missing = match.groupdict().get("missing")
            return MisfitSentence(".".join(filter(None, [field, missing])), sentence(match))
    return MisfitSentence(field, f"does not fit: {text}")


def _kinds(names: str) -> str:
    kinds = [_KINDS.get(name, name) for name in names.split(" | ")]
    return " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))


def _length(match: re.Match[str]) -> str:
    unit = {"str": "characters", "bytes": "bytes", "object": "keys"}.get(match["kind"], "items")
    limit = _LIMITS.get(match["limit"] or "", "exactly")
    return f"must have {limit} {match['number']} {unit}"


_SENTENCES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"Object missing required field `(?P<missing>.*)`", lambda match: "is missing. Add it"),
    (
        r"Expected `(?P<kinds>[^`]*)`, got `(?P<got>[^`]*)`",
        lambda match: f"must be {_kinds(match['kinds'])}, not {_kinds(match['got'])}",
    ),
    (r"Expected `(?P<kind>\w+)` of length (?P<limit>[<>]=?)? ?(?P<number>\d+)(?:, got \d+)?", _length),
    (
        r"Expected `\w+` (?P<limit>[<>]=?) (?P<number>\S+)",
        lambda match: f"must be {_LIMITS[match['limit']]} {match['number']}",
    ),
    (
        r"Expected `\w+` that's a multiple of (?P<number>\S+)",
        lambda match: f"must be a multiple of {match['number']}",
    ),
    (r"Expected `str` matching regex (?P<pattern>.*)", lambda match: f"must match the pattern {match['pattern']}"),
    (
        r"Expected `\w+` with a timezone component",
        lambda match: "must have a time zone, for example 2026-01-31T12:00:00Z",
    ),
    (r"Expected `\w+` with no timezone component", lambda match: "must not have a time zone. Leave it out"),
    (
        r"Invalid (?:RFC3339 encoded |ISO8601 )?(?P<kind>datetime|date|time|duration)",
        lambda match: f"must be {_KINDS[match['kind']]}",
    ),
    (r"Invalid UUID", lambda match: "must be a UUID"),
    (r"Invalid decimal string", lambda match: "must be a decimal number"),
    (r"Invalid base64 encoded string", lambda match: "must be text in Base64"),
    (r"Invalid (?:enum )?value (?P<value>.*)", lambda match: f"must be one of its values, not {match['value']}"),
)
