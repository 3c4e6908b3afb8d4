"""The servers that all tests share: started when a test first needs them, stopped at the end of the run.

A missing server is a skip that says how to get it, and with CI=true a failure.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import pgbouncer
from tests.servers.pgbouncer import find_pgbouncer
from tests.servers.postgres import HOW_TO_GET_ONE, Postgres, installed, versions

Runtime = Callable[[str], Postgres]


def do_without(reason: str) -> NoReturn:
    """Skip the test, and in CI fail it: there, everything is to be had."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def running_postgres() -> Iterator[Runtime]:
    """From a version to its server."""
    with ExitStack() as stack:
        running: dict[str, Postgres] = {}

        def run(version: str) -> Postgres:
            if version not in running:
                running[version] = stack.enter_context(Postgres(_programs(version)))
            return running[version]

        yield run


@pytest.fixture(scope="session", params=versions())
def postgres(request: pytest.FixtureRequest, running_postgres: Runtime) -> Postgres:
    """A running server with fast settings; the test runs once for each version.

    It is everybody's: take a `fresh_schema()`. A test that kills, stops or configures a server starts one of its own,
    with `Postgres(postgres_bindir)`.
    """
    version: str = request.param
    return running_postgres(version)


@pytest.fixture(scope="session")
def postgres_newest(running_postgres: Runtime) -> Postgres:
    """The server of the newest version, shared as `postgres` is."""
    return running_postgres(versions()[0])


@pytest.fixture(scope="session")
def postgres_bindir() -> Path:
    """The programs of the newest version, for a server of one's own."""
    return _programs(versions()[0])


@pytest.fixture(scope="session")
def pgbouncer_here() -> None:
    """For tests that start a PgBouncer: skipped, or in CI failed, without one."""
    if find_pgbouncer() is None:
        do_without(f"no PgBouncer: {pgbouncer.HOW_TO_GET_ONE}")


def _programs(version: str) -> Path:
    bindir = installed().get(version)
    if bindir is None:
        do_without(f"no PostgreSQL {version}: {HOW_TO_GET_ONE}")
    return bindir
