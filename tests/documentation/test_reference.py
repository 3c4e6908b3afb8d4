"""The reference documents every public name, setting, error, route and limit, and nothing that does not exist."""

import inspect
import json
import re

import msgspec
import pytest

import twofold
from tests.documentation.code_block_helpers import ROOT
from tests.http.bank_server import open_bank
from twofold import Receipt, Settings, errors, health, http, testing
from twofold.codec import edge
from twofold.errors import FunctionFailed, Refused, TwofoldError, UnreadableEvent, WiringError
from twofold.follower_status import build_status, partition_status
from twofold.health import HealthProblem, HealthReport
from twofold.http import Limits, asgi
from twofold.http.event_records import EventPage, EventRecord
from twofold.http.openapi import describe
from twofold.http.problems import KINDS, problem_of
from twofold.http.projection_routes import ActionRecord, ParkedKeys
from twofold.http.query_routes import QueryAnswer
from twofold.projections import Projections
from twofold.read_store.port import Parked
from twofold.testing import read_store_contract, write_store_contract


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text("utf-8")


def table(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads."""
    rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip().startswith("`")]


def section(text: str, heading: str) -> str:
    match = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert match is not None, f"there is no section '{heading}'"
    return match[1]


NAMES = page("names.md")


def test_every_setting_is_documented_with_its_default_and_its_description() -> None:
    documented = table(page("settings.md"))
    fields = msgspec.inspect.type_info(Settings)
    assert isinstance(fields, msgspec.inspect.StructType)
    actual: list[list[str]] = []
    for field in fields.fields:
        assert isinstance(field.type, msgspec.inspect.Metadata)
        assert field.type.extra_json_schema is not None
        actual.append([f"`{field.name}`", f"`{field.default}`", field.type.extra_json_schema["description"]])
    assert documented == actual


def test_every_method_in_the_table_of_the_app_exists_with_the_parameters_that_are_named() -> None:
    app = section(NAMES, "App")
    tables = {
        twofold.App: app[: app.index("`app.projections` has")],
        Projections: app[app.index("`app.projections` has") :],
    }
    for owner, text in tables.items():
        for documented, *_ in table(text):
            for name, parameters in re.findall(r"`(\w+)(?:\((.*?)\))?`", documented):
                member = getattr(owner, name, None)
                assert member is not None or name == "move", f"{owner.__name__}.{name}"
                if member is not None and parameters:
                    named = [parameter.partition("=")[0].strip(" ….") for parameter in parameters.split(",")]
                    assert set(filter(None, named)) <= inspect.signature(member).parameters.keys(), name
        maintenance = re.findall(r"`start\((\w+)=", text)
        assert set(maintenance) <= inspect.signature(twofold.App.start).parameters.keys()


def test_every_error_is_documented_with_its_status() -> None:
    documented = {row[0].strip("`"): row[1] for row in table(page("errors.md"))}
    actual = {
        name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, TwofoldError)
    }
    assert documented.keys() == actual.keys()
    for name, kind in actual.items():
        if kind in (TwofoldError, WiringError, Refused):
            continue
        details = {FunctionFailed: ("f", "fails"), UnreadableEvent: (1, "x", ValueError())}
        assert documented[name] == str(problem_of(kind(*details.get(kind, ("…",)))).status), name


def test_every_kind_of_problem_is_documented_with_its_status_and_its_cure() -> None:
    documented = table(section(page("http.md"), "Problems"))
    assert documented == [[f"`{name}`", str(kind.status), kind.cure] for name, kind in KINDS.items()]


def test_every_limit_is_documented_with_its_default() -> None:
    documented = [row[:2] for row in table(section(page("http.md"), "Limits"))]
    assert documented == [[f"`{name}`", f"`{value}`"] for name, value in msgspec.structs.asdict(Limits()).items()]


def test_the_documented_time_of_a_stop_is_the_longest_time_of_a_request() -> None:
    longest = int(Limits().body_seconds + Limits().request_seconds) + 1
    text = (ROOT / "docs" / "how-to" / "deploy-on-one-machine.md").read_text("utf-8")
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert f"gets {longest} seconds" in " ".join(text.split())
    assert int(patience) > longest


@pytest.mark.parametrize("limit", [edge.MAX_DEPTH, edge.MAX_KEYS, edge.MAX_STRING])
def test_the_limits_of_json_are_documented(limit: int) -> None:
    assert re.search(rf"\b{limit}\b", section(page("http.md"), "What is accepted"))


def test_the_documented_routes_are_those_of_the_api() -> None:
    documented = {row[0].strip("`") for row in table(page("http.md")) if " /" in row[0]}
    paths = describe(open_bank(), Limits())["paths"]
    actual = {f"{method.upper()} {_named(path)}" for path, offered in paths.items() for method in offered}
    actual |= {"GET /openapi.json", "GET /docs", "GET /"}
    assert documented == actual


ONLY_ON_DISK = {
    "twofold_log_bytes",
    "twofold_verify_position",
    "twofold_verify_rounds_total",
    "twofold_damages",
}
"""Metrics that an app in memory has not."""


async def test_every_metric_is_documented_with_its_labels() -> None:
    rows = table(section(page("http.md"), "Metrics"))
    documented = {
        name: set(re.findall(r"`(\w+)`", labels)) for cell, labels, _ in rows for name in re.findall(r"`(\w+)`", cell)
    }
    async with open_bank(freshness=1.0) as app:
        status = await app.status()
        names = ("0-2048", "2048-4096")
        parts = tuple(
            partition_status(name, position=0, lag=(0, 0.0), state="up-to-date", owner=None) for name in names
        )
        followers = [msgspec.structs.replace(follower, partitions=parts) for follower in status.followers]
        builds = [build_status("balances", 1, version=1, state="building", partitions=[(0, ())], head=0)]
        asgi(app)
        status = msgspec.structs.replace(status, followers=followers, builds=builds)
        families = await app.metrics(status)
    actual = {family.name: set(family.labels) for family in families}
    assert documented == actual | {name: set() for name in ONLY_ON_DISK}


def test_the_names_for_serving_from_code_are_documented() -> None:
    documented = {row[0].strip("`") for row in table(section(page("http.md"), "Serving from code"))}
    assert documented == set(http.__all__)


def test_the_documented_operator_actions_are_the_methods_of_app_projections() -> None:
    _, after = section(NAMES, "App").split("`app.projections`")
    documented = {row[0].strip("`").partition("(")[0] for row in table(after)}
    assert documented == {name for name in vars(Projections) if not name.startswith("_")}


def test_the_documented_json_has_the_fields_that_are_sent() -> None:
    samples = [
        json.loads(text.replace("[…]", "[]").replace("{…}", "{}"))
        for text in re.findall(r"^```json\n(.*?)\n```$", page("http.md"), re.MULTILINE)
    ]
    receipt, answer, events, parked, action, report = samples
    for sample, kind in (
        (receipt, Receipt),
        (answer, QueryAnswer),
        (events, EventPage),
        (events["events"][0], EventRecord),
        (parked, ParkedKeys),
        (parked["parked"][0], Parked),
        (action, ActionRecord),
        (report, HealthReport),
        (report["problems"][0], HealthProblem),
    ):
        assert list(sample) == list(kind.__struct_fields__), kind


def test_every_code_of_a_health_problem_is_documented() -> None:
    documented = [row[0].strip("`") for row in table(section(page("http.md"), "Health")) if len(row) == 4]
    source = inspect.getsource(health)
    actual = set(re.findall(r'(?:\bproblem\(|\bcode=|yield \(?\s*)"([a-z-]+)"', source))
    assert sorted(documented) == sorted(actual)


@pytest.mark.parametrize("name", [*twofold.__all__, *testing.__all__])
def test_every_public_name_is_documented_with_its_parameters_fields_and_methods(name: str) -> None:
    thing = getattr(twofold, name, None) or getattr(testing, name)
    if inspect.isclass(thing) and issubclass(thing, TwofoldError):
        assert f"`{name}`" in section(NAMES, "Errors")
        return
    text = section(NAMES, name)
    missing = [part for part in offered(thing) if not re.search(rf"\b{part}\b", text)]
    assert missing == []


@pytest.mark.parametrize("name", re.findall(r"^### (\w+)$", NAMES, re.MULTILINE))
def test_a_documented_name_is_public(name: str) -> None:
    assert name == "Contracts" or name in {*twofold.__all__, *testing.__all__}


def test_the_contracts_of_stores_are_documented() -> None:
    text = " ".join(section(NAMES, "Contracts").split())
    for module, name in (
        (write_store_contract, "WriteStoreContract"),
        (read_store_contract, "ReadStoreContract"),
    ):
        assert f"`{name}` (`{module.__name__}`)" in text
        assert hasattr(module, name)


def _named(path: str) -> str:
    return re.sub("^/(commands|queries)/.*", r"/\1/<name>", path).replace("{name}", "<name>")


def offered(thing: object) -> list[str]:
    """What users may use of a public name: its parameters and, of a class, its public methods and properties."""
    if not callable(thing):
        return []
    if thing is Settings:
        return ["from_environment"]  # its fields have a page of their own
    parameters = [name for name in inspect.signature(thing).parameters if not name.startswith("_")]
    members = [name for name in vars(thing) if not name.startswith("_")] if inspect.isclass(thing) else []
    return [*parameters, *members]
