"""Throw-away MongoDB servers: which mongod is here, and how one, or a replica set of some, is run."""

import atexit
import importlib.util
import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self

import pymongo
from pymongo.errors import PyMongoError

from tests.servers.server import LOOPBACK, Folder, Server, ServerError, as_other_user, listening, wait_until

WHEEL = "fiftyone"
HOW_TO_GET_ONE = (
    "`make install` brings mongod on Linux x86_64, which needs libcurl4 (scripts/install-servers); "
    "or let TEST_MONGOD name another"
)
SET = "rs0"
IN_MEMORY = Path("/dev/shm")

_EVERY = {
    # Else a member that is asked to stop waits for its clients for 15 s.
    "shutdownTimeoutMillisForSignaledShutdown": "100",
    "diagnosticDataCollectionEnabled": "false",
    # For failpoints.
    "enableTestCommands": "1",
    "ttlMonitorSleepSecs": "1",
}

_numbers = itertools.count(1)


def installed() -> Path | None:
    """The program: what TEST_MONGOD names, or what the lock brought. None where there is neither, or it cannot run."""
    if chosen := os.environ.get("TEST_MONGOD"):
        return Path(chosen)
    spec = importlib.util.find_spec(WHEEL)
    for folder in spec.submodule_search_locations or () if spec else ():
        program = Path(folder) / "db" / "bin" / "mongod"
        if (
            program.exists()
            and subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
        ):
            return program
    return None


def fresh_database() -> str:
    """The name of a database that nobody has used."""
    return f"t{os.getpid()}_{next(_numbers)}"


class Mongod(Server):
    """One mongod. `parameters` are server parameters. Without `replica_set` it stands alone, which no store accepts.

    A `fast` one has its data in memory, where there is room: they outlast the process, and not the machine.
    """

    name = "mongod"

    def __init__(
        self, program: Path, *options: str, replica_set: bool = True, fast: bool = False, **parameters: str | int
    ) -> None:
        super().__init__()
        self._memory = Folder(self.name, IN_MEMORY) if fast and _room_in_memory() else None
        self.data = (self._memory.path if self._memory else self.folder) / "data"
        self.program = _reachable(program)
        self.replica_set = replica_set
        self.options = options
        self.parameters = {**_EVERY, **{name: str(value) for name, value in parameters.items()}}

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        if self.running:
            raise ServerError("it runs already")
        if not self.data.exists():
            self._run("mkdir", self.data)
        process = self._spawn(
            self.program,
            *("--dbpath", str(self.data), "--port", str(self.port), "--bind_ip", LOOPBACK, "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25"),
            *(("--replSet", SET, "--oplogSize", "64") if self.replica_set else ()),
            *(each for name, value in self.parameters.items() for each in ("--setParameter", f"{name}={value}")),
            *self.options,
        )
        wait_until(lambda: process.poll() is not None or listening(self.port), "mongod to start")
        if process.poll() is not None:
            raise ServerError(f"mongod did not start\n{self.last_words()}")

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._memory:
                self._memory.remove()

    def ask(self, command: str, value: Any = 1, /, **more: Any) -> Mapping[str, Any]:
        """What this very node answers to a command of its database `admin`. PyMongoError where it does not."""
        options: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 5_000}
        with pymongo.MongoClient[dict[str, Any]](LOOPBACK, self.port, **options) as client:
            return client.admin.command(command, value, **more)


class ReplicaSet:
    """Some mongods that are one replica set, each with a copy of all data. A context manager.

    Elections are quick: a dead primary is missed after a second.
    """

    def __init__(self, program: Path, size: int = 1, *, fast: bool = False, **parameters: str | int) -> None:
        self._stack = ExitStack()
        self.nodes = [Mongod(program, fast=fast, **parameters) for _ in range(size)]

    @property
    def url(self) -> str:
        return self.url_of("")

    def url_of(self, database: str) -> str:
        return f"mongodb://{','.join(each.address for each in self.nodes)}/{database}?replicaSet={SET}"

    @property
    def primary(self) -> Mongod:
        """The node that takes writes; waits for one."""
        wait_until(lambda: any(self._is_primary(each) for each in self.nodes), "a primary")
        return next(each for each in self.nodes if self._is_primary(each))

    def wait_until_whole(self) -> None:
        """Return when every node is the primary or follows it."""
        wait_until(lambda: self._whole(self.primary), "every node to follow")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for each in self.nodes:
                stack.enter_context(each)
            self._initiate()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _initiate(self) -> None:
        members = [{"_id": n, "host": each.address} for n, each in enumerate(self.nodes)]
        settings = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 200}
        self.nodes[0].ask("replSetInitiate", {"_id": SET, "members": members, "settings": settings})
        self.wait_until_whole()

    @staticmethod
    def _is_primary(node: Mongod) -> bool:
        if not node.running:
            return False
        try:
            return bool(node.ask("hello")["isWritablePrimary"])
        except PyMongoError:
            return False

    def _whole(self, primary: Mongod) -> bool:
        try:
            members = primary.ask("replSetGetStatus")["members"]
        except PyMongoError:
            return False
        return all(each["stateStr"] in ("PRIMARY", "SECONDARY") for each in members)


def _room_in_memory() -> bool:
    return IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 2 * 2**30


@cache
def _copy(program: Path) -> Path:
    folder = Folder("programs")
    atexit.register(folder.remove)
    shutil.copy(program, folder.path)
    folder.path.chmod(0o755)
    return folder.path / program.name


def _reachable(program: Path) -> Path:
    """The program where the server's user may run it: root's virtual environment can be closed to everybody else."""
    test = subprocess.run([*as_other_user(), "test", "-x", str(program)], check=False)
    return program if test.returncode == 0 else _copy(program)
