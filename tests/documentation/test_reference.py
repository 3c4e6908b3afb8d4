"""The reference tells every public name, setting, error, route and limit as they are, and makes none up."""

import inspect
import re

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

import twofold
from tests.documentation.code_block_helpers import ROOT
from tests.http.bank_server import open_bank
from twofold import Settings, errors, http, testing
from twofold.codec import edge
from twofold.errors import Refused, TwofoldError, WiringError
from twofold.health import build_status, partition_status
from twofold.http import Limits
from twofold.http.metrics import exposition
from twofold.http.openapi import describe
from twofold.http.problems import KINDS, problem_of
from twofold.testing import read_store_contract, write_store_contract


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text("utf-8")


def table(text: str) -> list[list[str]]:
    """The rows of the tables in a text, heads left out."""
    rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip().startswith("`")]


def section(text: str, heading: str) -> str:
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"there is no section '{heading}'"
    return found[1]


NAMES = page("names.md")


def test_every_setting_is_told_with_its_default_and_its_sentence() -> None:
    told = table(page("settings.md"))
    fields = msgspec.inspect.type_info(Settings)
    assert isinstance(fields, msgspec.inspect.StructType)
    there: list[list[str]] = []
    for field in fields.fields:
        assert isinstance(field.type, msgspec.inspect.Metadata)
        assert field.type.extra_json_schema is not None
        there.append([f"`{field.name}`", f"`{field.default}`", field.type.extra_json_schema["description"]])
    assert told == there


def test_every_error_is_told_with_its_status() -> None:
    told = {row[0].strip("`"): row[1] for row in table(page("errors.md"))}
    there = {
        name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, TwofoldError)
    }
    assert told.keys() == there.keys()
    for name, kind in there.items():
        if kind in (TwofoldError, WiringError, Refused):
            continue
        assert told[name] == str(problem_of(kind("…")).status), name


def test_every_kind_of_problem_is_told_with_its_status_and_its_cure() -> None:
    told = table(section(page("http.md"), "Problems"))
    assert told == [[f"`{name}`", str(kind.status), kind.cure] for name, kind in KINDS.items()]


def test_every_limit_is_told_with_its_default() -> None:
    told = [row[:2] for row in table(section(page("http.md"), "Limits"))]
    assert told == [[f"`{name}`", f"`{value}`"] for name, value in msgspec.structs.asdict(Limits()).items()]


def test_a_stop_is_told_to_take_as_long_as_the_limits_let_a_request_take() -> None:
    longest = int(Limits().body_seconds + Limits().request_seconds) + 1
    text = (ROOT / "docs" / "how-to" / "deploy-on-one-machine.md").read_text("utf-8")
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert f"given {longest} seconds" in " ".join(text.split())
    assert int(patience) > longest


@pytest.mark.parametrize("limit", [edge.MAX_DEPTH, edge.MAX_KEYS, edge.MAX_STRING])
def test_the_limits_of_json_are_told(limit: int) -> None:
    assert re.search(rf"\b{limit}\b", section(page("http.md"), "What is let in"))


def test_every_route_is_told_and_none_is_made_up() -> None:
    told = {row[0].strip("`") for row in table(page("http.md")) if " /" in row[0]}
    paths = describe(open_bank(), Limits())["paths"]
    there = {f"{method.upper()} {_named(path)}" for path, offered in paths.items() for method in offered}
    there |= {"GET /openapi.json", "GET /docs"}
    assert told == there


async def test_every_metric_is_told_with_its_labels() -> None:
    rows = table(section(page("http.md"), "Metrics"))
    told = {
        name: set(re.findall(r"`(\w+)`", labels)) for cell, labels, _ in rows for name in re.findall(r"`(\w+)`", cell)
    }
    async with open_bank(freshness=1.0) as app:
        status = await app.status()
    names = ("0-2048", "2048-4096")
    parts = tuple(partition_status(each, position=0, lag=(0, 0.0), state="up-to-date", owner=None) for each in names)
    followers = [msgspec.structs.replace(each, partitions=parts) for each in status.followers]
    builds = [build_status("balances", 1, version=1, state="building", partitions=[(0, ())], head=0)]
    text = exposition(msgspec.structs.replace(status, followers=followers, builds=builds)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert told == {each.name: set(each.labels) for each in samples}


def test_the_names_for_serving_from_code_are_told() -> None:
    told = {row[0].strip("`") for row in table(section(page("http.md"), "Serving from code"))}
    assert told == set(http.__all__)


@pytest.mark.parametrize("name", [*twofold.__all__, *testing.__all__])
def test_every_public_name_is_told_with_its_parameters_fields_and_methods(name: str) -> None:
    thing = getattr(twofold, name, None) or getattr(testing, name)
    if inspect.isclass(thing) and issubclass(thing, TwofoldError):
        assert f"`{name}`" in section(NAMES, "Errors")
        return
    text = section(NAMES, name)
    missing = [each for each in offered(thing) if not re.search(rf"\b{each}\b", text)]
    assert missing == []


@pytest.mark.parametrize("name", re.findall(r"^### (\w+)$", NAMES, re.MULTILINE))
def test_a_name_that_is_told_is_public(name: str) -> None:
    assert name == "Contracts" or name in {*twofold.__all__, *testing.__all__}


def test_the_contracts_of_stores_are_told() -> None:
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
    """What a user may write of a name: its parameters and, of a class, its public methods and properties."""
    if not callable(thing):
        return []
    if thing is Settings:
        return ["from_environment"]  # its fields have a page of their own
    parameters = [name for name in inspect.signature(thing).parameters if not name.startswith("_")]
    members = [name for name in vars(thing) if not name.startswith("_")] if inspect.isclass(thing) else []
    return [*parameters, *members]
