"""An error in the user's code is shown as theirs: from their first frame, without the frames of Twofold."""

import json
import traceback
from pathlib import Path

import pytest

from tests.cli.command_line_helpers import APP, run
from twofold.cli.output import printable
from twofold.cli.user_errors import user_traceback

RULES = "def rate():\n    return 1 / 0\n"


def test_an_error_at_import_is_shown_from_the_first_frame_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "app.py").write_text("import rules\n\nRATE = rules.rate()\n")
    done = run(tmp_path, "serve", "app:app")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[:2] == ["Error: The module 'app' failed.", "Traceback (most recent call last):"]
    frames = [line.strip() for line in lines if line.startswith("  File ")]
    assert [frame.split("/")[-1] for frame in frames] == ['app.py", line 3, in <module>', 'rules.py", line 2, in rate']
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "Internal" not in done.stderr and "site-packages" not in done.stderr


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("x = 1\ndef (:\n")
    done = run(tmp_path, "serve", "app:app")
    assert done.returncode == 1
    assert 'app.py", line 2' in done.stderr and "SyntaxError" in done.stderr
    assert "importlib" not in done.stderr


def test_a_wrong_call_of_twofold_is_shown_where_the_user_made_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP + "\nApp(nothing=1)\n")
    done = run(tmp_path, "serve", "app:app")
    assert done.returncode == 1
    assert "    App(nothing=1)" in done.stderr.splitlines()
    assert "unexpected keyword argument 'nothing'" in done.stderr
    assert "twofold/app.py" not in done.stderr


def test_causes_keep_their_frames_of_the_user(tmp_path: Path) -> None:
    text = "def inner():\n    raise KeyError('x')\n\ntry:\n    inner()\n"
    text += "except KeyError as error:\n    raise ValueError('y') from error\n"
    (tmp_path / "app.py").write_text(text)
    done = run(tmp_path, "serve", "app:app")
    assert "in inner" in done.stderr
    assert "direct cause" in done.stderr
    assert done.stderr.splitlines()[-1] == "ValueError: y"


def test_with_json_the_error_is_a_line_too(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "app.py").write_text("import rules\n\nrules.rate()\n")
    done = run(tmp_path, "serve", "app:app", "--json")
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["message"]) == ("unexpected", "ZeroDivisionError: division by zero")
    assert "rules.py" in done.stderr


def test_a_text_of_an_error_cannot_control_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise ValueError('\\x1b[2J')\n")
    assert "\x1b" not in run(tmp_path, "serve", "app:app").stderr


def test_an_error_of_twofold_keeps_its_frames() -> None:
    with pytest.raises(TypeError) as raised:
        printable(None)  # type: ignore[arg-type]
    error = raised.value
    assert error.__traceback__ is not None
    own = error.with_traceback(error.__traceback__.tb_next)
    assert user_traceback(own) == "".join(traceback.format_exception(own))
