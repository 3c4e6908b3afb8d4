"""The limit of open files is raised for connections, and what it does not allow is named."""

import logging
import resource
from collections.abc import Iterator

import pytest

from twofold.http.open_files import RESERVE, connections_that_fit


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, int]]]:
    """Limits of open files that a test sets, instead of those of the process."""
    now = {"files": (1_024, 1_024)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: now["files"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, files: now.update(files=files))
    yield now


def test_the_soft_limit_is_raised_as_far_as_needed(limits: dict[str, tuple[int, int]]) -> None:
    limits["files"] = (1_024, 100_000)
    assert connections_that_fit(4_096) == 4_096
    soft, hard = limits["files"]
    assert 4_096 + RESERVE < soft < 6_000 and hard == 100_000
    limits["files"] = (50_000, 100_000)
    assert connections_that_fit(4_096) == 4_096
    assert limits["files"] == (50_000, 100_000), "it is never lowered"
    limits["files"] = (1_024, resource.RLIM_INFINITY)
    assert connections_that_fit(4_096) == 4_096


def test_fewer_connections_are_served_where_the_hard_limit_is_low(
    limits: dict[str, tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    limits["files"] = (512, 1_024)
    with caplog.at_level(logging.WARNING):
        connections = connections_that_fit(4_096)
    assert limits["files"] == (1_024, 1_024)
    assert 500 < connections <= 1_024 - RESERVE
    assert "ulimit -n" in caplog.text
    limits["files"] = (200, 200)
    assert connections_that_fit(4_096) == 50
