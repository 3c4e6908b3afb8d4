"""The options of `serve` that say where it listens and whose requests it answers, each also an environment variable."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import click

from twofold.http.security import Trust


class _Port(click.IntRange):
    """A port. Container platforms set TWOFOLD_PORT to an address where a service is called so: that is no setting."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        given: Any = value
        if "://" in str(given) and param is not None and param.default is not None:
            return param.default
        return super().convert(given, param, ctx)


def _option(name: str, **attributes: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    variable = f"TWOFOLD_{name.removeprefix('--').replace('-', '_').upper()}"
    return click.option(name, envvar=variable, show_envvar=True, **attributes)


_OPTIONS = (
    _option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."),
    _option(
        "--port",
        type=_Port(0, 65_535),
        default=8000,
        show_default=True,
        help="Port to listen on; 0 takes a free one.",
    ),
    _option(
        "--allow-host",
        multiple=True,
        metavar="NAME",
        help="Answer requests that are addressed to this name. May be repeated.",
    ),
    _option(
        "--allow-origin",
        multiple=True,
        metavar="ORIGIN",
        help="Let pages of this site send and read: https://shop.example. May be repeated.",
    ),
    _option("--allow-credentials", is_flag=True, help="Let pages of the allowed sites send cookies too."),
    _option(
        "--proxy",
        multiple=True,
        metavar="ADDRESS",
        help="Trust X-Forwarded-* and Forwarded of this address or network. May be repeated.",
    ),
    _option("--root-path", default="", metavar="PATH", help="The path under which a proxy publishes the app: /shop."),
    _option("--access-log", is_flag=True, help="Log each request: method, path, status, time, bytes."),
)


class ServerOptions(NamedTuple):
    """Where a server listens, and whose requests it answers."""

    host: str
    port: int
    root_path: str
    access_log: bool
    trust: Trust


def server_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of a server, as `server`. WiringError where one is not of its form."""

    @wraps(command)
    def with_server(
        host: str,
        port: int,
        allow_host: tuple[str, ...],
        allow_origin: tuple[str, ...],
        allow_credentials: bool,
        proxy: tuple[str, ...],
        root_path: str,
        access_log: bool,
        **options: Any,
    ) -> int:
        trust = Trust(
            hosts=frozenset(allow_host),
            origins=frozenset(allow_origin),
            credentials=allow_credentials,
            proxies=frozenset(proxy),
        )
        return command(server=ServerOptions(host, port, root_path, access_log, trust), **options)

    decorated: Callable[..., int] = with_server
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
