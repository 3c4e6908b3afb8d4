"""`twofold audit`: rows that are not the fold of the log are reported and repaired, also beside a running serve."""

from pathlib import Path

import apsw
import pytest

from tests.cli.command_line_helpers import run, run_json, serving
from tests.cli.test_rebuild import break_a_row, folder, text_of

__all__ = ["folder"]


def test_rows_that_are_right_are_said_to_be(folder: Path) -> None:
    code, said = run_json(folder, "audit", "app:app", "pages")
    assert (code, said["data"]["rows"], said["data"]["right"]) == (0, 40, 40)


def test_a_wrong_row_is_shown_and_repaired(folder: Path) -> None:
    break_a_row(folder)
    done = run(folder, "audit", "app:app", "pages")
    assert done.returncode == 3
    assert "40 rows audited: 39 right, 1 different" in done.stdout
    assert '    text: "BROKEN" -> "text 3"' in done.stdout
    code, said = run_json(folder, "audit", "app:app", "pages", "--key", "n3", "--key", "n4", "--repair")
    assert (code, said["data"]["rows"], said["data"]["repaired"]) == (0, 2, 1)
    assert run(folder, "audit", "app:app", "pages").returncode == 0


@pytest.mark.parametrize(
    ("row", "reported"),
    [
        ("oops", "The row is not JSON."),
        ('{"note_id":"n3","text":3}', "The row does not fit Page: text must be text, not a whole number"),
    ],
)
def test_a_corrupt_row_is_reported_with_what_is_wrong_and_repaired(folder: Path, row: str, reported: str) -> None:
    connection = apsw.Connection(str(folder / "data/views.db"))
    connection.execute("""update "rows of pages@1" set row = ? where key = 'n3'""", (row,)).fetchall()
    connection.close()
    for only in ([], ["--key", "n3", "--key", "n4"]):
        done = run(folder, "audit", "app:app", "pages", *only)
        assert done.returncode == 3, done.stderr
        assert f"{2 if only else 40} rows audited: {1 if only else 39} right, 1 different" in done.stdout
        assert f"  n3 (position 4 -> 4): {reported}" in done.stdout
    repaired = run(folder, "audit", "app:app", "pages", "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert repaired.stdout.endswith("1 repaired, 0 not repaired.\n")
    assert run(folder, "audit", "app:app", "pages").returncode == 0


def test_beside_a_running_serve_it_audits_by_itself_and_lets_the_serve_repair(folder: Path) -> None:
    break_a_row(folder)
    with serving(folder) as (_, at):
        assert run(folder, "audit", "app:app", "pages").returncode == 3
        refused = run(folder, "audit", "app:app", "pages", "--repair").stderr
        assert f"add --url {at['url']}." in refused, "the hint names the port that is used"
        assert run(folder, "audit", "app:app", "pages", "--repair", "--url", at["url"]).returncode == 0
        assert text_of(at["url"], "n3") == "text 3"
        assert run(folder, "audit", "app:app", "pages").returncode == 0


def test_what_cannot_be_audited_is_reported(folder: Path) -> None:
    done = run(folder, "audit", "app:app", "nope")
    assert done.returncode == 2
    assert "There is no projection 'nope'. There are: pages." in done.stderr
