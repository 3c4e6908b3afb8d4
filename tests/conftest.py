"""In charge of what every test may rely on: a browser, or a word on why there is none."""

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is marked `browser` asks for the browser first, so that it is skipped, and counted, without one."""
    for item in items:
        if item.get_closest_marker("browser") and "chromium" not in (names := getattr(item, "fixturenames", [])):
            names.insert(0, "chromium")


def pytest_configure() -> None:
    """Let the children of tests hear Ctrl-C, also where the tests run in the background and it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
