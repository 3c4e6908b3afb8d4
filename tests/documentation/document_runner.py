"""Run the code blocks of a document in order, in one folder, as a reader would.

`python` blocks are files: the first line names the file, and ends in `, further down` where the block is appended.
`pycon` blocks are sessions of `python -m asyncio`, each a new one; their output must match, `…` matches anything.
`console` blocks are commands after `$ `, checked in the same way; `curl` is emulated and need not be installed.
All other blocks are ignored.
"""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.documentation.code_block_helpers import ROOT

_BLOCK = re.compile(r"^```(python|pycon|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w+\.py)(, further down)?\n")
_CHECK = doctest.OutputChecker()
_BIN = Path(sys.executable).parent


class Reader:
    """Runs the code blocks of one document."""

    def __init__(self, document: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._text = (ROOT / document).read_text("utf-8")
        self._folder = folder
        self._patch = patch
        self._server: subprocess.Popen[str] | None = None
        self._address = ""
        self._log = ""
        self.shown = 0
        """Outputs that were compared."""

    async def follow(self) -> None:
        """Run every block. AssertionError where the output differs from the document."""
        self._patch.chdir(self._folder)
        self._patch.syspath_prepend(self._folder)
        self._patch.setattr(sys, "dont_write_bytecode", True)
        try:
            for language, block in _BLOCK.findall(self._text):
                if language == "python":
                    self._write(block)
                elif language == "pycon":
                    await self._session(block)
                else:
                    self._commands(block)
        finally:
            self._stop_serving()
            self._forget_modules()

    def _write(self, block: str) -> None:
        named = _FILE.match(block)
        assert named is not None, f"The first line of a python block names its file:\n{block}"
        path = self._folder / named[1]
        before = path.read_text("utf-8") if named[2] else ""
        path.write_text(f"{before}\n{block[named.end() :]}", "utf-8")

    # ------------------------------------------------------------------------------------------------------- sessions

    async def _session(self, block: str) -> None:
        self._stop_serving()
        self._forget_modules()
        names: dict[str, Any] = {"__name__": "__main__"}
        for example in doctest.DocTestParser().get_examples(block):
            raised = _ExpectedException(expected=example.exc_msg is not None)
            with contextlib.redirect_stdout(io.StringIO()) as printed, raised:
                await _evaluate(example.source, names)
            self._compare(example.source, example.exc_msg or example.want, raised.text or printed.getvalue())

    def _forget_modules(self) -> None:
        for path in self._folder.glob("*.py"):
            sys.modules.pop(path.stem, None)
        importlib.invalidate_caches()

    # ------------------------------------------------------------------------------------------------------- commands

    def _commands(self, block: str) -> None:
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            words = shlex.split(command.replace("main-…", self._log), comments=True)
            if words[:2] == ["twofold", "serve"]:
                self._serve(words)
            elif words[0] == "curl":
                self._compare(command, shown, self._curl(words))
            else:
                self._compare(command, shown, self._run(words))

    def _run(self, words: list[str]) -> str:
        self._stop_serving()
        done = subprocess.run(
            [str(_BIN / words[0]), *words[1:]],
            cwd=self._folder,
            env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(self._folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode or done.stdout, done.stderr
        return done.stdout or done.stderr

    def _serve(self, words: list[str]) -> None:
        self._stop_serving()
        command = [str(_BIN / words[0]), *words[1:], "--port", "0", "--json"]
        self._server = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        self._address = json.loads(self._server.stdout.readline())["data"]["url"]

    def _stop_serving(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.terminate()
            with server:
                assert server.wait(60) == 0

    def _curl(self, words: list[str]) -> str:
        assert self._server is not None, "The document sends a request to a server that it did not start."
        address = next(word for word in words if word.startswith("localhost:8000"))
        headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
        body = words[words.index("-d") + 1] if "-d" in words else None
        method = "GET" if body is None else "POST"
        url = address.replace("localhost:8000", self._address)
        answer = httpx.request(method, url, content=body, headers=headers)
        self._log = answer.headers.get("Twofold-Position", self._log).rpartition(".")[0]
        return f"{answer.text}\n"

    def _compare(self, what: str, shown: str, actual: str) -> None:
        self.shown += bool(shown)
        if not _CHECK.check_output(shown.replace("…", "..."), actual, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE):
            raise AssertionError(f"{what}\n--- shown\n{shown}\n--- actual\n{actual}")


class _ExpectedException:
    """Catches the exception that a session shows; others are raised."""

    def __init__(self, expected: bool) -> None:
        self._expected = expected
        self.text = ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if kind is not None:
            self.text = f"{kind.__module__}.{kind.__qualname__}: {error}\n".removeprefix("builtins.")
        return self._expected and isinstance(error, Exception)


async def _evaluate(source: str, names: dict[str, Any]) -> None:
    """Run one statement as the prompt does: its value is printed."""
    code = compile(source, "<document>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(code, names)()
    if inspect.iscoroutine(result):
        await result
