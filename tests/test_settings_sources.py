"""Settings from the environment and a file: unknown names are refused, and the environment wins over the file."""

from pathlib import Path

import pytest

from twofold import Settings, WiringError
from twofold.cli.server_options import _OPTIONS, server_options
from twofold.settings_sources import SERVER_VARIABLES


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TWOFOLD_WRITE_STOR", "TWOFOLD_WRITE_STORE"),
        ("TWOFOLD_PAGE_EVENT", "TWOFOLD_PAGE_EVENTS"),
        ("TWOFOLD_ALLOWED_HOST", "TWOFOLD_ALLOW_HOST"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_one_that_is_meant(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WiringError, match=rf"{variable} is not a setting\. Did you mean {meant}\?"):
        Settings.from_environment()


def test_one_that_is_like_none_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_XYZZY", "1")
    with pytest.raises(WiringError, match=r"TWOFOLD_XYZZY is not a setting\. Unset it"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TWOFOLD_SERVICE_HOST", "10.0.0.1"),
        ("TWOFOLD_SERVICE_PORT_HTTP", "8000"),
        ("TWOFOLD_PORT", "tcp://10.0.0.1:8000"),
        ("TWOFOLD_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("TWOFOLD_COMMAND_SERVICE_HOST", "10.0.0.1"),
        ("TWOFOLD_COMMAND_PORT", "tcp://10.0.0.1:8000"),
        ("TWOFOLDER", "1"),
        ("TWOFOLD_ROOT_PATH", "/shop"),
        ("TWOFOLD_LOG_LEVEL", "info"),
    ],
)
def test_what_container_platforms_set_for_services_and_what_servers_read_is_no_mistake(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert Settings.from_environment() == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("twofold.toml", 'page_events = 5\nwrite_store = "memory:"\n'),
        ("pyproject.toml", '[project]\nname = "shop"\n[tool.twofold]\npage_events = 5\nwrite_store = "memory:"\n'),
    ],
)
def test_a_file_sets_what_the_environment_and_the_code_do_not(
    name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / name).write_text(text)
    assert Settings.from_environment() == Settings(page_events=5, write_store="memory:")
    monkeypatch.setenv("TWOFOLD_PAGE_EVENTS", "6")
    assert Settings.from_environment(write_store="sqlite:///own.db") == Settings(
        page_events=6, write_store="sqlite:///own.db"
    )


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"twofold.toml": "page-events = 5"}, "twofold.toml sets 'page-events', .* Did you mean page_events?"),
        ({"pyproject.toml": "[tool.twofold]\nxyzzy = 5"}, "tool.twofold.* sets 'xyzzy', which is not a setting"),
        ({"twofold.toml": "page_events = 0"}, r"page_events \(in twofold.toml\)"),
        ({"twofold.toml": 'page_events = "many"'}, r"page_events \(in twofold.toml\)"),
        ({"twofold.toml": "page_events ="}, "twofold.toml cannot be read"),
        ({"pyproject.toml": "[tool]\ntwofold = 5"}, "is not a table"),
        ({"twofold.toml": "page_events = 5", "pyproject.toml": "[tool.twofold]\npage_events = 5"}, "Keep one"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_its_name(files: dict[str, str], problem: str, folder: Path) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(WiringError, match=problem):
        Settings.from_environment()


def test_the_variables_of_servers_are_the_options_of_serve() -> None:
    @server_options
    def command(**_: object) -> int:
        return 0

    options = {option.name for option in command.__click_params__}  # type: ignore[attr-defined]
    assert len(options) == len(_OPTIONS)
    assert options | {"log_level", "log_format"} == SERVER_VARIABLES
