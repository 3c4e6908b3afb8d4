"""Servers that are jars: the Java that runs them, and the folder that `jvm/fetch-jars` put them into."""

import atexit
import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.servers.server import Folder, ServerError, as_other_user

JVM = Path(__file__).parent / "jvm"
HOW_TO_GET_THEM = "`scripts/install-servers` fetches its jars, with Java 17 and Maven"
_JAVA = "17"


def find_java() -> Path | None:
    """The program `java` of the version the servers run on."""
    candidates = [os.path.join(os.environ.get("JAVA_HOME", ""), "bin", "java"), "java"]
    candidates += sorted(str(path) for path in Path("/usr/lib/jvm").glob(f"*{_JAVA}*/bin/java"))
    found = (shutil.which(each) for each in candidates)
    return next((Path(each) for each in found if each and _version(each) == _JAVA), None)


def find_jars(name: str) -> Path | None:
    """The folder of a server's jars, as they are listed beside `fetch-jars`; None where they were not fetched."""
    listed = hashlib.sha256((JVM / f"{name}.sha256").read_bytes()).hexdigest()[:12]
    cached = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cached) / "twofold-servers" / f"{name}-{listed}"
    return folder if folder.is_dir() else None


def readable(folder: Path) -> Path:
    """The folder where the server's user may read it: root's home can be closed to everybody else."""
    test = subprocess.run([*as_other_user(), "test", "-r", str(folder)], check=False)
    return folder if test.returncode == 0 else _copy(folder)


@cache
def _version(java: str) -> str:
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return found[1] if found else ""


@cache
def _copy(folder: Path) -> Path:
    copied = Folder("jars")
    atexit.register(copied.remove)
    shutil.copytree(folder, copied.path, dirs_exist_ok=True)
    copied.path.chmod(0o755)
    return copied.path


def jars_of(name: str) -> Path:
    """The folder of a server's jars, readable. ServerError where they were not fetched."""
    folder = find_jars(name)
    if folder is None:
        raise ServerError(f"no jars of {name}: {HOW_TO_GET_THEM}")
    return readable(folder)
