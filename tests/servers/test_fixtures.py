"""The shared servers: one for each version, and no silence about one that is missing."""

from pathlib import Path

import pytest

from tests.servers import fixtures
from tests.servers.fixtures import Runtime, do_without
from tests.servers.postgres import Postgres, installed, versions


def test_each_version_runs_and_says_so(postgres: Postgres, request: pytest.FixtureRequest) -> None:
    wanted = request.node.callspec.params["postgres"]
    assert postgres.sql("show server_version").split(".")[0] == wanted
    assert postgres.sql("show synchronous_commit") == "off"


def test_a_server_is_started_once(postgres: Postgres, running_postgres: Runtime, postgres_newest: Postgres) -> None:
    version = postgres.sql("show server_version").split(".")[0]
    assert running_postgres(version) is postgres
    assert running_postgres(versions()[0]) is postgres_newest


def test_two_versions_are_wanted_even_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_PG_BIN", raising=False)
    here: dict[str, Path] = {}
    monkeypatch.setattr("tests.servers.postgres.installed", lambda: here)
    assert versions() == ("18", "15")
    here["16"] = Path()
    assert versions() == ("18", "16")
    here["14"] = Path()
    assert versions() == ("18", "16")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_server_is_a_skip_and_in_ci_a_failure(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, running_postgres: Runtime
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(fixtures, "installed", dict)
    with pytest.raises(outcome, match=r"no PostgreSQL 9: .*apt-get install postgresql"):
        running_postgres("9")
    with pytest.raises(outcome, match="no moon"):
        do_without("no moon")


def test_what_is_installed_has_the_programs_it_should() -> None:
    for bindir in installed().values():
        assert all((bindir / name).exists() for name in ("postgres", "initdb", "psql", "pg_basebackup", "pg_ctl"))
