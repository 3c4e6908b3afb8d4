"""What every test may rely on: a browser, or a word on why there is none."""

import os
import shutil
import signal

import pytest

pytest_plugins = ["tests.servers.fixtures", "tests.servers.cassandra_fixtures", "tests.servers.mongodb_fixtures"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    candidates = (os.environ.get("CHROMIUM", ""), *NAMES)
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium for `playwright.chromium.launch(executable_path=...)`. For tests marked `browser`."""
    path = find_chromium()
    if path is None:
        without = "no Chromium: install 'chromium', or point CHROMIUM at a browser"
        if os.environ.get("CI") == "true":
            pytest.fail(without)
        pytest.skip(without)
    return path


SERVERS = {"cassandra": {"cassandra", "cassandra_here"}, "mongodb": {"mongodb", "mongod_here"}}
"""Servers that take long to start or much memory, by the fixtures that start them."""


def server_of(item: pytest.Item) -> str | None:
    """The large server a test needs, if it needs one."""
    names = set(getattr(item, "fixturenames", []))
    return next((server for server, fixtures in SERVERS.items() if names & fixtures or f"[{server}" in item.name), None)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let tests of one large server run in one process, and first; ask for the browser where one is needed.

    Whatever is marked `browser` asks for it first, so that it is skipped, and counted, without one.
    """
    for item in items:
        if (server := server_of(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(server))
    if hasattr(config, "workerinput"):
        # What cannot be shared out among processes begins at once, and the rest is shared out around it.
        items.sort(key=lambda item: server_of(item) or "z")
    for item in items:
        if item.get_closest_marker("browser") and "chromium" not in (names := getattr(item, "fixturenames", [])):
            names.insert(0, "chromium")


def pytest_configure() -> None:
    """Let the children of tests hear Ctrl-C, also where the tests run in the background and it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
