"""The rules of ARCHITECTURE.md that a machine can check, over every module, and the proof that each rule can bite."""

from collections.abc import Callable

import pytest

from tests.architecture import rules
from tests.architecture.rules import Source

Rule = Callable[[Source], list[str]]
PackageRule = Callable[[list[Source]], list[str]]

RULES: dict[str, Rule] = {
    "no file is longer than 400 lines": rules.files_too_long,
    "no function is longer than 60 lines": rules.functions_too_long,
    "no port has more than six methods": rules.ports_too_wide,
    "no name says nothing": rules.names_that_say_nothing,
    "every module opens with a sentence": rules.modules_without_a_first_sentence,
    "no module says that it is in charge of something": rules.module_docstrings_that_say_in_charge_of,
    "no call has eight positional arguments": rules.calls_with_too_many_positional_arguments,
    "what drives the followers takes at most six arguments": rules.constructors_with_too_many_arguments,
    "the domain is pure": rules.impurities_of_the_domain,
    "only world asks for clock, ids and randomness": rules.questions_to_the_world,
    "nothing runs stored or sent bytes": rules.dangers,
    "no import hides inside a function": rules.imports_inside_functions,
    "no hint hides from run time": rules.hints_that_hide,
    "only app chooses an adapter": rules.adapters_imported_elsewhere,
    "read stores are on one plan of files": rules.files_beside_the_plan,
    "no part comes in by the front door": rules.imports_by_the_front_door,
}

PACKAGE_RULES: dict[str, PackageRule] = {
    "no class name stands twice": rules.class_names_that_stand_twice,
    "no module name stands twice": rules.module_names_that_stand_twice,
}

BREACHES: list[tuple[Rule, str, str]] = [
    (rules.files_too_long, "a.py", "x = 1\n" * 401),
    (rules.functions_too_long, "a.py", "def f():\n" + "    x = 1\n" * 61),
    (rules.functions_too_long, "a.py", "class A:\n  async def f(self):\n    'Doc.'\n" + "    x = 1\n" * 61),
    (rules.ports_too_wide, "a.py", "class P(Protocol[T]):\n" + "".join(f"  def m{n}(self): ...\n" for n in range(7))),
    (rules.names_that_say_nothing, "http/utils.py", ""),
    (rules.names_that_say_nothing, "core/log.py", ""),
    (rules.names_that_say_nothing, "ui/_helpers.py", ""),
    (rules.modules_without_a_first_sentence, "a.py", "x = 1\n"),
    (rules.module_docstrings_that_say_in_charge_of, "a.py", '"""In charge of all."""\n'),
    (rules.calls_with_too_many_positional_arguments, "a.py", "f(1, 2, 3, 4, 5, 6, 7, 8)\n"),
    (
        rules.constructors_with_too_many_arguments,
        "synchronization/a.py",
        "class Worker:\n  def __init__(self, a, b, c, d, *, e, f, g): ...\n",
    ),
    (rules.impurities_of_the_domain, "domain/a.py", "import logging\n"),
    (rules.impurities_of_the_domain, "domain/a.py", "from asyncio import Lock\n"),
    (rules.impurities_of_the_domain, "domain/a.py", "from twofold.world import World\n"),
    (rules.impurities_of_the_domain, "domain/a.py", "from ..world import World\n"),
    (rules.impurities_of_the_domain, "domain/a.py", "from .. import codec\n"),
    (rules.impurities_of_the_domain, "domain/a.py", "async def f() -> None: ...\n"),
    (rules.impurities_of_the_domain, "domain/a.py", "text = open('a').read()\n"),
    (rules.questions_to_the_world, "app.py", "import time\nt = time.time()\n"),
    (rules.questions_to_the_world, "app.py", "import time as t\nclock = t.monotonic\n"),
    (rules.questions_to_the_world, "app.py", "from time import monotonic as tick\n"),
    (rules.questions_to_the_world, "app.py", "from datetime import UTC, datetime as d\nx = d.now(UTC)\n"),
    (rules.questions_to_the_world, "app.py", "import datetime\nx = datetime.datetime.now()\n"),
    (rules.questions_to_the_world, "app.py", "from uuid import uuid4\n"),
    (rules.questions_to_the_world, "app.py", "import uuid\nx = uuid.uuid4()\n"),
    (rules.questions_to_the_world, "app.py", "import random\n"),
    (rules.questions_to_the_world, "app.py", "from secrets import token_hex\n"),
    (rules.questions_to_the_world, "app.py", "import asyncio, os.path\nasyncio.sleep(1)\n"),
    (rules.dangers, "a.py", "import pickle\n"),
    (rules.dangers, "a.py", "from pickle import loads\n"),
    (rules.dangers, "a.py", "import yaml\nyaml.load(text)\n"),
    (rules.dangers, "a.py", "from yaml import load\n"),
    (rules.dangers, "a.py", "eval('1')\n"),
    (rules.dangers, "a.py", "exec('x = 1')\n"),
    (rules.imports_inside_functions, "a.py", "def f():\n    import json\n"),
    (rules.imports_inside_functions, "cli/app.py", "class A:\n    async def f(self):\n        from . import b\n"),
    (rules.hints_that_hide, "a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json\n"),
    (rules.hints_that_hide, "a.py", "import typing\nif typing.TYPE_CHECKING:\n    import json\n"),
    (rules.adapters_imported_elsewhere, "http/a.py", "from twofold.write_store.sqlite import SqliteWriteStore\n"),
    (rules.adapters_imported_elsewhere, "http/a.py", "from ..read_store import memory\n"),
    (rules.adapters_imported_elsewhere, "testing/a.py", "import twofold.write_store.sqlite\n"),
    (rules.files_beside_the_plan, "read_store/redis/layout.py", ""),
    (rules.files_beside_the_plan, "read_store/redis/looking.py", ""),
    (rules.files_beside_the_plan, "read_store/redis/rows/encoding.py", ""),
    (rules.imports_by_the_front_door, "codec/a.py", "import twofold\n"),
    (rules.imports_by_the_front_door, "codec/a.py", "from twofold import App\n"),
    (rules.imports_by_the_front_door, "codec/a.py", "from .. import App\n"),
]

PACKAGE_BREACHES: list[tuple[PackageRule, list[Source]]] = [
    (rules.class_names_that_stand_twice, [Source("a.py", "class Seen: ...\n"), Source("b.py", "class _Seen: ...\n")]),
    (rules.module_names_that_stand_twice, [Source("http/events.py", ""), Source("domain/events.py", "")]),
]

PACKAGE_HARMLESS: list[tuple[PackageRule, list[Source]]] = [
    (
        rules.class_names_that_stand_twice,
        [Source("port.py", "class Follower(Protocol): ...\n"), Source("a.py", "class Follower: ...\n")],
    ),
    (rules.module_names_that_stand_twice, [Source("read_store/sqlite/rows.py", ""), Source("codec/rows.py", "")]),
    (rules.module_names_that_stand_twice, [Source("read_store/memory.py", ""), Source("write_store/memory.py", "")]),
    (rules.module_names_that_stand_twice, [Source("http/__init__.py", ""), Source("cli/__init__.py", "")]),
]

HARMLESS: list[tuple[Rule, str, str]] = [
    (rules.functions_too_long, "a.py", "def f():\n  '''" + "Doc.\n" * 99 + "'''\n  return 1\n"),
    (rules.names_that_say_nothing, "http/command_routes.py", ""),
    (rules.module_docstrings_that_say_in_charge_of, "a.py", '"""Rows by key."""\n'),
    (rules.calls_with_too_many_positional_arguments, "a.py", "f(1, 2, 3, 4, 5, 6, 7, h=8)\n"),
    (
        rules.constructors_with_too_many_arguments,
        "http/a.py",
        "class A:\n  def __init__(s, a, b, c, d, e, f, g): ...\n",
    ),
    (rules.impurities_of_the_domain, "domain/a.py", "from datetime import datetime\nfrom .events import Event\n"),
    (rules.impurities_of_the_domain, "app.py", "async def f(): ...\n"),
    (rules.questions_to_the_world, "world.py", "import time\nx = time.time()\n"),
    (rules.questions_to_the_world, "app.py", "from datetime import datetime\nx: datetime\ny = world.now()\n"),
    (rules.dangers, "a.py", "import re\nre.compile('a')\nstore.load(1)\n"),
    (rules.imports_inside_functions, "app.py", "def f():\n    import apsw\n"),
    (rules.adapters_imported_elsewhere, "app.py", "from twofold.write_store.sqlite import SqliteWriteStore\n"),
    (rules.adapters_imported_elsewhere, "http/a.py", "from twofold.write_store.port import WriteStore\n"),
    (rules.adapters_imported_elsewhere, "write_store/sqlite.py", "from twofold.write_store.memory import x\n"),
    (rules.files_beside_the_plan, "read_store/redis/__init__.py", ""),
    (rules.files_beside_the_plan, "read_store/redis/schema.py", ""),
    (rules.files_beside_the_plan, "read_store/redis/schema_names.py", ""),
    (rules.files_beside_the_plan, "read_store/access.py", ""),
    (rules.files_beside_the_plan, "write_store/sqlite/reader.py", ""),
    (rules.imports_by_the_front_door, "codec/a.py", "from twofold import errors\nimport twofold.domain\n"),
]


def name_of(case: object) -> str | None:
    return case.__name__ if callable(case) else None


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_package_keeps_the_rule_that(rule: Rule) -> None:
    modules = rules.sources()
    assert modules, "there is nothing to check"
    assert [breach for module in modules for breach in rule(module)] == []


@pytest.mark.parametrize("rule", PACKAGE_RULES.values(), ids=PACKAGE_RULES)
def test_the_package_as_a_whole_keeps_the_rule_that(rule: PackageRule) -> None:
    assert rule(rules.sources()) == []


@pytest.mark.parametrize(("rule", "sources"), PACKAGE_BREACHES, ids=name_of)
def test_a_breach_between_two_modules_is_found(rule: PackageRule, sources: list[Source]) -> None:
    assert rule(sources) != []


@pytest.mark.parametrize(("rule", "sources"), PACKAGE_HARMLESS, ids=name_of)
def test_two_modules_that_keep_the_rule_are_left_alone(rule: PackageRule, sources: list[Source]) -> None:
    assert rule(sources) == []


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES, ids=name_of)
def test_a_breach_of_the_rule_is_found(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) != []


@pytest.mark.parametrize(("rule", "path", "text"), HARMLESS, ids=name_of)
def test_what_keeps_the_rule_is_left_alone(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) == []


def test_every_rule_has_been_proven_to_bite() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(RULES.values())
    assert {rule for rule, _ in PACKAGE_BREACHES} == set(PACKAGE_RULES.values())
