"""Throw-away PgBouncers: a pool of few connections that many clients share, transaction by transaction.

Debian's is 1.18, which does not keep prepared statements for its clients: a driver must not name them (asyncpg:
`statement_cache_size=0`, psycopg: `prepare_threshold=None`). LISTEN, session settings and session locks get lost.
"""

import os
import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.server import LOOPBACK, Server, ServerError, hand_over, listening, wait_until

HOW_TO_GET_ONE = "`apt-get install pgbouncer`"

_SETTINGS = """
[databases]
* = host={host} port={to} user=postgres
[pgbouncer]
listen_addr = {loopback}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
admin_users = postgres
"""


def find_pgbouncer() -> Path | None:
    """The program, which Debian keeps off the path of ordinary users."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return Path(found) if found else None


class PgBouncer(Server):
    """Stands before the PostgreSQL of this dsn, whichever database the client asks for. A context manager.

    `size` is how many connections it holds to the server, and so how many transactions run at once.
    """

    name = "pgbouncer"
    quitting = signal.SIGTERM  # at once; SIGINT would wait for the clients

    def __init__(self, dsn: str, size: int = 2, mode: str = "transaction") -> None:
        program = find_pgbouncer()
        if program is None:
            raise ServerError(f"no PgBouncer: {HOW_TO_GET_ONE}")
        super().__init__()
        self._program = program
        target = urlsplit(dsn)
        self._path = target.path
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(
                host=target.hostname, to=target.port, loopback=LOOPBACK, port=self.port, mode=mode, size=size
            )
        )
        hand_over(settings)
        self._settings = settings

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@{LOOPBACK}:{self.port}{self._path}"

    def start(self) -> None:
        process = self._spawn(self._program, self._settings)
        wait_until(lambda: process.poll() is not None or listening(self.port), "PgBouncer to start")
        if process.poll() is not None:
            raise ServerError(f"PgBouncer did not start\n{self.last_words()}")
