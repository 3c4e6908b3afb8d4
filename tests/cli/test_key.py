"""`twofold key`: API keys are made, used, listed and revoked on the command line."""

from pathlib import Path

import httpx
import pytest

from tests.cli.command_line_helpers import GUARDED, run, run_json, serving


def test_api_keys_are_made_used_and_revoked_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(GUARDED)
    monkeypatch.delenv("TWOFOLD_TOKEN", raising=False)
    key = run(tmp_path, "key", "create", "keys.json", "--name", "otto", "--role", "operator").stdout.strip()
    assert key.startswith("tf_")
    with serving(tmp_path) as (_, at):
        refused = run(tmp_path, "pause", "pages", "--url", at["url"])
        assert (refused.returncode, "needs a login" in refused.stderr) == (2, True)
        monkeypatch.setenv("TWOFOLD_TOKEN", key)
        assert run(tmp_path, "pause", "pages", "--url", at["url"]).returncode == 0
        response = httpx.get(f"{at['url']}/projections/pages/actions", headers={"Authorization": f"Bearer {key}"})
        assert [action["actor"] for action in response.json()["actions"]] == ["otto"]
        _, listed = run_json(tmp_path, "key", "list", "keys.json")
        (shown,) = listed["data"]
        assert (shown["name"], shown["roles"], "hash" in shown) == ("otto", ["operator"], False)
        assert "otto" in run(tmp_path, "key", "list", "keys.json").stdout
        assert run(tmp_path, "key", "revoke", "keys.json", shown["id"]).returncode == 0
        # The server looks at the file once a second at most.
        while run(tmp_path, "projections", "--url", at["url"]).returncode == 0:
            pass
        refused = run(tmp_path, "resume", "pages", "--url", at["url"])
        assert (refused.returncode, "unknown, revoked or expired" in refused.stderr) == (2, True)
    assert "no key with the id" in run(tmp_path, "key", "revoke", "keys.json", "x").stderr
    assert run(tmp_path, "key", "create", "keys.json", "--name", "a\nb").returncode == 2
