"""`import twofold` stays light, and the import rule in pyproject.toml holds and bites."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.rules import PACKAGE, ROOT

HEAVY = {
    "apsw",
    "click",
    "httptools",
    "httpx",
    "jinja2",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "starlette",
    "uvicorn",
    "uvloop",
}


def heavy_modules_loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stdout.split())


def test_importing_twofold_loads_no_driver_no_web_framework_and_no_cli() -> None:
    assert heavy_modules_loaded_by("import twofold") == set()


def test_a_heavy_import_would_be_noticed() -> None:
    assert "apsw" in heavy_modules_loaded_by("import apsw")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Checks the package under `folder`/src against the rule in `folder`/pyproject.toml."""
    program = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import *; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "src" / "twofold", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_rule_holds(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("errors", "import twofold.domain.breach"),
        ("domain/breach", "import twofold.codec.breach"),
        ("domain/breach", "import twofold.world"),
        ("world", "import twofold.domain.breach"),
        ("codec/breach", "import twofold.write_store.breach"),
        ("retrying", "import twofold.codec.breach"),
        ("uncancellable", "import twofold.codec.breach"),
        ("write_store/breach", "import twofold.read_store.breach"),
        ("read_store/breach", "import twofold.synchronization.breach"),
        ("command_service/breach", "import twofold.query_service.breach"),
        ("synchronization/breach", "import twofold.command_service.breach"),
        ("query_service/breach", "import twofold.settings"),
        ("command_service/breach", "import twofold.telemetry"),
        ("synchronization/breach", "def late():\n    import twofold.app"),
        ("app", "import twofold.http.breach"),
        ("http/breach", "import twofold.ui.breach"),
        ("http/breach", "import twofold.operations.breach"),
        ("operations/breach", "import twofold.http.breach"),
        ("ui/breach", "import twofold.cli.breach"),
        ("cli/breach", "import twofold.testing.breach"),
        ("app", "import twofold.testing.breach"),
        ("breach", "import twofold.errors"),
    ],
)
def test_a_breach_of_the_import_rule_is_found(copy: Path, module: str, statement: str) -> None:
    package = copy / "src" / "twofold"
    imported = statement.split("import ")[1].removeprefix("twofold.").replace(".", "/")
    for name in (module, imported):
        path = package / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        if not (package / name).is_dir():
            path.touch()
    broken = package / f"{module}.py"
    broken.write_text(f"{broken.read_text()}\n{statement}\n")
    done = lint_imports(copy)
    assert done.returncode != 0, done.stdout
    assert "breach" in done.stdout, done.stdout
