"""nginx and Caddy with a configuration of the documentation, on a port and with a certificate of their own."""

import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path

from tests.servers.server import LOOPBACK, Server, ServerError, hand_over, listening, wait_until

NAME = "shop.example"
HOW_TO_GET_ONE = {"nginx": "`apt-get install nginx-light`", "caddy": "`apt-get install caddy`"}

_NGINX = """
daemon off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{recipe}
}}
"""
_CADDY = """
{{
    admin off
    auto_https disable_redirects
}}
{recipe}
"""


def find_proxy(kind: str) -> Path | None:
    """The program, which Debian keeps off the path of ordinary users."""
    found = shutil.which(kind, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return Path(found) if found else None


class ReverseProxy(Server):
    """Stands before the HTTP server on a port, as `recipe` says. A context manager.

    AssertionError where the recipe does not have the lines that are replaced.
    """

    def __init__(self, kind: str, recipe: str, upstream: int) -> None:
        self.name = kind
        program = find_proxy(kind)
        if program is None:
            raise ServerError(f"no {kind}: {HOW_TO_GET_ONE[kind]}")
        super().__init__()
        self._program = program
        self.certificate, key = self._certify()
        recipe = _replaced(recipe, "127.0.0.1:8000", f"{LOOPBACK}:{upstream}")
        if kind == "nginx":
            recipe = _replaced(recipe, "listen 443 ssl", f"listen {LOOPBACK}:{self.port} ssl")
            recipe = _replaced(recipe, f"/etc/ssl/{NAME}.pem", str(self.certificate))
            recipe = _replaced(recipe, f"/etc/ssl/private/{NAME}.key", str(key))
            text = _NGINX.format(folder=self.folder, recipe=recipe)
        else:
            own = f"https://{NAME}:{self.port} {{\n    bind {LOOPBACK}\n    tls {self.certificate} {key}"
            text = _CADDY.format(recipe=_replaced(recipe, f"{NAME} {{", own))
        self._settings = self.folder / "settings"
        self._settings.write_text(text)
        hand_over(self._settings)

    @property
    def url(self) -> str:
        """The address in a browser. Its name has to be resolved to 127.0.0.1."""
        return f"https://{NAME}:{self.port}"

    def trust(self) -> ssl.SSLContext:
        """What accepts the certificate, and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def start(self) -> None:
        if self.name == "nginx":
            process = self._spawn(self._program, "-e", "stderr", "-p", self.folder, "-c", self._settings)
        else:
            process = self._spawn(self._program, "run", "--adapter", "caddyfile", "--config", self._settings)
        wait_until(lambda: process.poll() is not None or listening(self.port), f"{self.name} to start")
        if process.poll() is not None:
            raise ServerError(f"{self.name} did not start\n{self.last_words()}")

    def _certify(self) -> tuple[Path, Path]:
        certificate, key = self.folder / "certificate.pem", self.folder / "key.pem"
        kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
        names = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        command = ["openssl", *kind, *names, "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        for path in (certificate, key):
            hand_over(path)
        return certificate, key


def _replaced(text: str, old: str, new: str) -> str:
    assert len(re.findall(re.escape(old), text)) == 1, f"the recipe has not one '{old}'"
    return text.replace(old, new)
