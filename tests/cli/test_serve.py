"""`twofold serve`: an app over HTTP from one command, that stops cleanly and says what is wrong."""

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import APP, GUARDED, next_line, run, run_json, running, serving, stop
from twofold.http import Limits


def test_a_served_app_takes_commands_and_a_query_with_their_position_sees_them(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, at):
        with httpx.Client(base_url=at["url"]) as client:
            receipt = client.post("/commands/write-note", json={"note_id": "n1", "text": "hi"}).json()
            asked = client.get("/queries/note-by-id", params={"note_id": "n1", "position": receipt["token"]})
            assert asked.json()["answer"] == {"note_id": "n1", "text": "hi"}
            assert client.get(at["console"]).status_code == 200
            assert client.get(at["docs"]).status_code == 200
        assert at["pages"] is None
        assert at["pid"] == process.pid


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0_when_told_to_and_what_was_acknowledged_is_there_again(
    tmp_path: Path, how: signal.Signals
) -> None:
    with serving(tmp_path) as (process, at):
        httpx.post(f"{at['url']}/commands/write-note", json={"note_id": "n1", "text": "kept"}).raise_for_status()
        assert stop(process, how) == (0, "", "")
    with serving(tmp_path) as (_, at):
        assert httpx.get(f"{at['url']}/events").json()["events"][0]["data"]["text"] == "kept"


def test_the_addresses_and_stores_are_printed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with running(tmp_path, "serve", "app:app", "--port", "0", "--write-store", "sqlite:///my/log.db") as process:
        assert next_line(process.stdout) == "app:app is running. Ctrl-C stops it.\n"
        shown = dict(next_line(process.stdout).strip().rsplit(maxsplit=1) for _ in range(4))
        assert shown["console"].startswith("http://127.0.0.1:")
        assert shown["write store"] == str(tmp_path / "my/log.db")
        assert (tmp_path / "my/log.db").exists()
        assert stop(process, signal.SIGINT) == (0, "Stopped.\n", "")


def test_a_second_one_on_the_same_file_is_refused_and_names_the_process(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _):
        code, said = run_json(tmp_path, "serve", "app:app", "--port", "0")
        assert (code, said["ok"], said["error"]["kind"]) == (2, False, "wiring-error")
        assert f"pid {process.pid}" in said["error"]["message"]


def test_a_port_that_is_in_use_is_reported(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, "serve", "app:app", "--port", port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: Port {port} on 127.0.0.1 is in use.")


MODULES = {
    "app": APP,
    "broken": "import a_library_nobody_has",
    "badly_wired": "from twofold import App, Module\napp = App(Module('m', decisions=[print]))",
}


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("app", "Write MODULE:APP"),
        ("app.py:app", "Write the module: app:app."),
        ("ap:app", "There is no module 'ap' in"),
        ("no.such:app", "no/such.py"),
        ("app:ap", "Did you mean app:app?"),
        ("app:notes", "app:notes is a Module, not an App. Create an app with it: `app = App(notes)`."),
        ("app:Note", "app:Note is not an App, but of type StructMeta. Did you mean app:app?"),
        ("broken:app", "No module named 'a_library_nobody_has'. Install what it imports."),
        ("badly_wired:app", "print: annotate every parameter"),
        ("a b:c-d", "Write MODULE:APP"),
        ("", "Write MODULE:APP"),
    ],
)
def test_a_missing_app_is_reported_in_a_sentence(tmp_path: Path, target: str, cure: str) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    done = run(tmp_path, "serve", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert cure in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_others_reach_needs_access_rules_and_host_names(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = run(tmp_path, "serve", "app:app", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "access=[Allow(" in done.stderr
    (tmp_path / "app.py").write_text(GUARDED)
    done = run(tmp_path, "serve", "app:app", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "--allow-host" in done.stderr
    with serving(tmp_path, "--host", "0.0.0.0", "--allow-host", "shop.example") as (_, at):
        port = at["url"].rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/health/ready"
        assert httpx.get(url).status_code == 200
        assert httpx.get(url, headers={"Host": "shop.example"}).status_code == 200
        assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 403


def test_a_bug_in_the_app_is_shown_with_its_traceback_and_still_one_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1 / 0")
    done = run(tmp_path, "serve", "app:app", "--json")
    assert done.returncode == 1
    assert done.stdout.startswith('{"ok":false,"error":{"kind":"unexpected","message":"ZeroDivisionError')
    assert "Traceback" in done.stderr


def test_streams_are_limited_for_each_address_that_a_named_proxy_tells(tmp_path: Path) -> None:
    def stream(at: dict[str, str], client: str, held: list[socket.socket]) -> bytes:
        """The status of one more stream, which stays open."""
        host, _, port = at["url"].removeprefix("http://").partition(":")
        held.append(socket.create_connection((host, int(port)), timeout=30))
        held[-1].sendall(
            b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            b"X-Forwarded-For: %s\r\n\r\n" % client.encode()
        )
        return held[-1].recv(4096).split(b" ")[1]

    (tmp_path / "app.py").write_text(GUARDED.replace("queries=ALL)", "queries=ALL, read_log=True)"))
    most = Limits().streams_per_client
    with serving(tmp_path, "--proxy", "127.0.0.0/8") as (_, at), ExitStack() as stack:
        held: list[socket.socket] = []
        stack.callback(lambda: [each.close() for each in held])
        assert {stream(at, f"203.0.113.{n}", held) for n in range(most + 10)} == {b"200"}
        assert {stream(at, "203.0.113.0", held) for _ in range(most - 1)} == {b"200"}
        assert stream(at, "203.0.113.0", held) == b"503"
    with serving(tmp_path) as (_, at), ExitStack() as stack:
        held = []
        stack.callback(lambda: [each.close() for each in held])
        assert {stream(at, f"203.0.113.{n}", held) for n in range(most)} == {b"200"}
        assert stream(at, "203.0.113.254", held) == b"503"


def test_the_options_of_the_server_are_environment_variables_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.setenv("TWOFOLD_ALLOW_HOST", "shop.example other.example")
    monkeypatch.setenv("TWOFOLD_ALLOW_ORIGIN", "https://page.example")
    monkeypatch.setenv("TWOFOLD_ALLOW_CREDENTIALS", "1")
    monkeypatch.setenv("TWOFOLD_PROXY", "127.0.0.1 10.0.0.0/8")
    monkeypatch.setenv("TWOFOLD_ROOT_PATH", "/shop")
    with serving(tmp_path) as (_, at):
        headers = {"Host": "inner", "X-Forwarded-Host": "other.example", "Origin": "https://page.example"}
        answer = httpx.get(f"{at['url']}/openapi.json", headers=headers)
        assert answer.json()["servers"] == [{"url": "/shop"}]
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert answer.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize(
    ("option", "value", "cure"),
    [
        ("--allow-host", "https://shop.example", "Write the name only"),
        ("--allow-host", "shop.example:80", "Write the name only"),
        ("--allow-host", "*", "Write the name only"),
        ("--allow-origin", "shop.example", "https://shop.example"),
        ("--allow-origin", "*", "https://shop.example"),
        ("--allow-origin", "https://shop.example/", "without a path"),
        ("--allow-origin", "https://shop.example:443", "Write https://shop.example."),
        ("--proxy", "nginx", "10.0.0.0/8"),
        ("--root-path", "shop", "/shop"),
        ("--root-path", "/queries", "Choose another one"),
    ],
)
def test_an_option_that_is_not_of_its_form_is_refused_with_the_form(
    tmp_path: Path, option: str, value: str, cure: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = run(tmp_path, "serve", "app:app", "--port", "0", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert cure in done.stderr


def test_a_file_sets_options_below_the_environment_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twofold.toml").write_text(
        'allow_host = ["shop.example"]\nroot_path = "/file"\nread_store = "memory:"\n'
    )
    monkeypatch.setenv("TWOFOLD_PORT", "tcp://10.0.0.1:80")

    def prefix_of(*options: str) -> tuple[str, str]:
        with serving(tmp_path, *options) as (_, at):
            answer = httpx.get(f"{at['url']}/openapi.json", headers={"Host": "shop.example"})
            return answer.json()["servers"][0]["url"], at["read_store"]

    assert prefix_of() == ("/file", "memory:")
    monkeypatch.setenv("TWOFOLD_ROOT_PATH", "/environment")
    assert prefix_of() == ("/environment", "memory:")
    assert prefix_of("--root-path", "/line", "--read-store", "sqlite:///own.db") == ("/line", "sqlite:///own.db")


def test_a_variable_that_is_no_setting_stops_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_WRITESTORE", "memory:")
    for command in (["serve", "app:app"], ["log"], ["verify"]):
        done = run(tmp_path, *command)
        assert (done.returncode, "Did you mean TWOFOLD_WRITE_STORE?" in done.stderr) == (2, True)


def test_python_m_twofold_is_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twofold", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("twofold, version")
