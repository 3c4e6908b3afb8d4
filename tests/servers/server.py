"""A throw-away server: its folder, port and process, none of which outlives the test process.

The kernel ends the server when the process that started it dies, even by SIGKILL; a shell that waits for the same
removes the folder. Linux only: `setpriv` (util-linux) sets the signal of the parent's death, and changes the user where
we are root, because PostgreSQL and PgBouncer refuse to run as root.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

LOOPBACK = "127.0.0.1"
# Below what Linux gives to outgoing connections: while a server is down, none of them may take its port.
PORTS = range(20_000, 32_000)
USERS = ("postgres", "nobody")
PATIENCE = 60.0  # seconds

# Reads until the writer is gone, then removes; a dying server may still write.
_SWEEP = 'cat >/dev/null; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$0" 2>/dev/null && exit; sleep 0.2; done; exit 1'


class ServerError(RuntimeError):
    """A server did not start, or did not do as it was reported. Says the end of its log."""


class Folder:
    """A temporary folder that is gone after `remove()`, and at the latest when this process is."""

    def __init__(self, name: str, within: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"twofold-{name}-", dir=within))
        hand_over(self.path)
        # A session of its own: Ctrl-C ends the tests, not the sweeping.
        self._sweeper = subprocess.Popen(
            ["sh", "-c", _SWEEP, str(self.path)], stdin=subprocess.PIPE, cwd="/", start_new_session=True
        )

    def remove(self) -> None:
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        if self._sweeper.wait() != 0:
            raise ServerError(f"{self.path} could not be removed")


class Server(ABC):
    """A server on the loopback address. A context manager; what is below says how to run it."""

    name = "server"
    quitting = signal.SIGTERM
    death = "QUIT"  # what it hears when the process that started it dies

    def __init__(self) -> None:
        self._folder = Folder(self.name)
        self.folder = self._folder.path
        self.log = self.folder / "log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it, or start it again, and return when it takes connections. ServerError if it does not."""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Stop it as an operator would; what was written stays, and `start()` finds it."""
        self._end(self.quitting)

    def kill(self) -> None:
        """SIGKILL: no goodbye to clients, nothing written that was not."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove all of it."""
        try:
            self.stop()
        finally:
            self._folder.remove()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, *command: str | Path) -> "subprocess.Popen[bytes]":
        if threading.current_thread() is not threading.main_thread():
            raise ServerError("start servers from the main thread: they die with the thread that started them")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*as_other_user(), f"--pdeathsig={self.death}", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
            )
        return self.process

    def _run(self, *command: str | Path) -> str:
        """What a tool, run as the server's user, answers on stdout. ServerError with its complaint if it fails."""
        done = subprocess.run(
            [*as_other_user(), "--pdeathsig=KILL", *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self._environment(),
        )
        if done.returncode != 0:
            raise ServerError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder), "TZ": "UTC"}

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServerError(f"{self.name} did not end after {how.name}\n{self.last_words()}") from None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def as_other_user() -> list[str]:
    """The beginning of a command line that runs the rest as who may run a server. Options of `setpriv` may follow."""
    if shutil.which("setpriv") is None:
        raise ServerError("no setpriv: install util-linux")
    user = server_user()
    return ["setpriv", *([f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"] if user else [])]


def server_user() -> pwd.struct_passwd | None:
    """Who runs the servers while we are root; nobody else while we are not."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError(f"root may not run the servers, and there is no user {' or '.join(USERS)}")


def hand_over(path: Path) -> None:
    """Make the path belong to who runs the servers."""
    if user := server_user():
        os.chown(path, user.pw_uid, user.pw_gid)


def free_port() -> int:
    """A port nobody listens on, where no outgoing connection ends up by chance."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind((LOOPBACK, port))
            return port
    raise ServerError(f"no free port in {PORTS}")


def listening(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 1).close()
    except OSError:
        return False
    return True


def wait_until(ready: Callable[[], bool], what: str) -> None:
    """Return as soon as `ready()`. ServerError naming `what` after a minute."""
    for _ in _tries():
        if ready():
            return
    raise ServerError(f"waited {PATIENCE:.0f} s in vain: {what}")


def _tries() -> Iterator[None]:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        yield
        time.sleep(0.01)
