"""Throw-away nginx servers with the configuration that `deploy/` ships, in front of processes of this machine."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.reverse_proxy import HOW_TO_GET_ONE, find_proxy
from tests.servers.server import LOOPBACK, Server, ServerError, hand_over, listening, wait_until

SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx.conf"

_AROUND = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {shipped};
}}
"""


class Gateway(Server):
    """The shipped nginx in front of the ports of each role. Roles without a port get one that refuses connections."""

    name = "nginx"

    def __init__(self, ports: Mapping[str, Sequence[int]]) -> None:
        program = find_proxy("nginx")
        if program is None:
            raise ServerError(f"no nginx: {HOW_TO_GET_ONE['nginx']}")
        super().__init__()
        self._program = program
        shipped = self.folder / "shipped.conf"
        shipped.write_text(shipped_for(ports, self.port))
        self._configuration = self.folder / "nginx.conf"
        self._configuration.write_text(_AROUND.format(folder=self.folder, shipped=shipped))
        for path in (shipped, self._configuration):
            hand_over(path)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        process = self._spawn(self._program, "-c", self._configuration, "-e", "stderr")
        wait_until(lambda: process.poll() is not None or listening(self.port), "nginx to start")
        if process.poll() is not None:
            raise ServerError(f"nginx did not start\n{self.last_words()}")


def shipped_for(ports: Mapping[str, Sequence[int]], listen: int) -> str:
    """The shipped configuration with these servers for each role, and with another port to listen on."""

    def servers(found: re.Match[str]) -> str:
        options = found["options"]
        return "".join(f"    server {LOOPBACK}:{port}{options};\n" for port in ports.get(found["role"]) or [9])

    text, roles = re.subn(
        r"^    server (?P<role>\w+):8000(?P<options>[^;]*);\n", servers, SHIPPED.read_text(), flags=re.M
    )
    text, listens = re.subn(r"listen 8080;", f"listen {LOOPBACK}:{listen};", text)
    if (roles, listens) != (3, 1):
        raise ServerError(f"{SHIPPED} has other servers or ports than the tests know")
    return text
