"""`twofold serve --reload` starts again when code changes, also after code that cannot be imported."""

import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import APP, PATIENCE, next_json, running
from tests.servers.server import free_port
from twofold import WiringError
from twofold.cli.reloading import serve_again_on_changes


def title_of(port: int, wanted: str) -> str:
    """The title of the app once it is the one that is wanted; the last one after a long time."""
    title = ""
    for _ in range(int(PATIENCE / 0.1)):
        try:
            title = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()["info"]["title"]
        except httpx.TransportError:
            title = ""
        if title == wanted:
            break
        time.sleep(0.1)
    return title


def test_changed_code_is_served_and_a_signal_stops_all(tmp_path: Path) -> None:
    code = tmp_path / "app.py"
    code.write_text(APP)
    port = free_port()
    with running(tmp_path, "serve", "app:app", "--reload", "--port", str(port), "--json") as process:
        server = next_json(process)["pid"]
        assert server != process.pid
        assert title_of(port, "notes") == "notes"
        code.write_text("this is no Python\n")
        # The server that had the old code has ended, and none could start.
        assert title_of(port, "") == ""
        code.write_text(APP.replace('"notes",', '"papers",'))
        assert title_of(port, "papers") == "papers"
        server = next_json(process)["pid"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health/live")
        assert not Path(f"/proc/{server}").exists()


def test_without_watchfiles_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(WiringError, match=r"twofold\[reload\]"):
        serve_again_on_changes(["serve", "app:app", "--reload"])
