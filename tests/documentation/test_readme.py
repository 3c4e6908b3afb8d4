"""The example of the README is served, durable and described, and reads its own writes."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.documentation.code_block_helpers import ROOT, blocks

MOST_LINES = 30


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the example with the real command; yields its address."""
    command = [str(Path(sys.executable).parent / "twofold"), "serve", "orders:app", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["data"]["url"])
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_the_example_has_at_most_thirty_lines() -> None:
    (example,) = blocks("README.md", "python")
    assert 10 < sum(bool(line.strip()) for line in example.splitlines()) <= MOST_LINES


def test_the_example_is_served_durably_and_a_get_with_the_position_sees_the_post(tmp_path: Path) -> None:
    (example,) = blocks("README.md", "python")
    (tmp_path / "orders.py").write_text(example, "utf-8")
    body, path, query = curled()
    with served(tmp_path) as url:
        receipt = httpx.post(f"{url}{path}", content=body, headers={"Content-Type": "application/json"})
        assert receipt.status_code == 200, receipt.text
        token = receipt.json()["token"]
        answer = httpx.get(f"{url}{query.replace('main-….1', token)}")
        assert answer.json()["answer"] == [{"order_id": "o-1", "customer": "ann"}]
        assert "/commands/place-order" in httpx.get(f"{url}/openapi.json").json()["paths"]
        assert httpx.get(f"{url}/docs").status_code == httpx.get(f"{url}/console/").status_code == 200
    with served(tmp_path) as url:
        again = httpx.get(f"{url}{query.replace('main-….1', token)}")
        assert again.json() == answer.json(), "the answer is the same after a restart"


def test_the_answers_in_the_readme_have_the_fields_that_are_sent(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(blocks("README.md", "python")[0], "utf-8")
    samples = [json.loads(line) for line in console().splitlines() if line.startswith("{")]
    body, path, query = curled()
    with served(tmp_path) as url:
        receipt = httpx.post(f"{url}{path}", content=body, headers={"Content-Type": "application/json"}).json()
        answer = httpx.get(f"{url}{query.replace('main-….1', receipt['token'])}").json()
    assert [list(sample) for sample in samples] == [list(receipt), list(answer)]
    assert samples[1]["answer"] == answer["answer"]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = re.findall(r"^\$ make (\w+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert commands == ["demo", "test"]
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in commands)


def console() -> str:
    return next(block for block in blocks("README.md", "console") if "curl" in block)


def curled() -> tuple[str, str, str]:
    """The requests of the README: body and path of the command, and path of the query."""
    post, get = (shlex.split(line[2:]) for line in console().splitlines() if line.startswith("$ curl"))
    return post[post.index("-d") + 1], post[-1].removeprefix("localhost:8000"), get[-1].removeprefix("localhost:8000")
