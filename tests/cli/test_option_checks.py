"""Options that would have no effect beside others are refused: the error names the option and says why."""

from pathlib import Path

import pytest

from tests.cli.command_line_helpers import APP, run_json

URL = ["--url", "http://127.0.0.1:9"]
STORE = ["--write-store", "sqlite:///a.db"]
VIEWS = ["--read-store", "sqlite:///b.db"]


@pytest.mark.parametrize(
    ("arguments", "option", "reason"),
    [
        (["projections", *URL, "--actions"], "--actions", "ask for `/projections/NAME/actions` there"),
        (["projections", *URL, "--max-lag", "3"], "--max-lag", "the `serve` there reports"),
        (["projections", *URL, *STORE], "--write-store", "the `serve` there reports"),
        (["projections", *URL, *VIEWS], "--read-store", "the `serve` there reports"),
        (["projections", "app:app", *URL], "[MODULE:APP]", "the `serve` there reports"),
        (["projections", "--actions", "--watch"], "--watch", "once"),
        (["projections", "--actions", "--max-lag", "3"], "--max-lag", "records of the write store"),
        (["projections", "--actions", *VIEWS], "--read-store", "records of the write store"),
        (["audit", "app:app", "pages", *URL], "--url", "without --repair this process only reads"),
        (["rebuild", "app:app", "pages", "--drop", "--yes"], "--yes", "build and compare nothing"),
        (["rebuild", "app:app", "pages", "--switch-back", "--force"], "--force", "build and compare nothing"),
        (["rebuild", "app:app", "pages", "--no-switch", "--yes"], "--yes", "nothing is switched to"),
        (["rebuild", "pages", *URL, "--drop", *STORE], "--write-store", "no store is opened"),
        (["rebuild", "app:app", "pages", *URL, "--no-compare"], "MODULE:APP", "no store is opened"),
        (["parked", "retry", "pages", "bad", *URL, *STORE], "--write-store", "no store is opened"),
        (["partitions", "split", "pages", *URL, *VIEWS], "--read-store", "no store is opened"),
        (["demo", "--no-serve", "--port", "1"], "--port", "no pages"),
        (["demo", "--no-serve", "--open"], "--open", "no pages"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, arguments: list[str], option: str, reason: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, said = run_json(tmp_path, *arguments)
    assert (code, said["error"]["kind"], said["error"]["field"]) == (2, "usage", option)
    assert said["error"]["message"].startswith(f"{option} has no effect here: ")
    assert reason in said["error"]["message"]


@pytest.mark.parametrize(
    "words", [["parked", "retry", "app:app", "pages", "bad"], ["partitions", "split", "app:app", "p"]]
)
def test_the_app_is_left_out_where_a_serve_does_it(tmp_path: Path, words: list[str]) -> None:
    code, said = run_json(tmp_path, *words, *URL)
    assert (code, said["error"]["kind"]) == (2, "usage")
    assert "with --url only NAME" in said["error"]["message"]
