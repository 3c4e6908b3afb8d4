"""In charge of `twofold demo`: the example shop, served at once, while the orders of an old shop are sent into it."""

import asyncio
import math
import signal
import webbrowser
from pathlib import Path
from typing import Any

import click

from twofold.app import App
from twofold.cli.app_loading import Number, json_option, port_option, refuse_memory
from twofold.cli.demo_shop import Figures, Shop, load_shop
from twofold.cli.output import Exit, columns, emit
from twofold.cli.progress_bar import Bar
from twofold.cli.serve_command import console_of, log_to_stderr, tell
from twofold.errors import Unavailable
from twofold.http.server import fast_runner, serve
from twofold.sqlite_file import FileLock

FOLDER = Path("data/demo")
_FILES = ("", "-wal", "-shm", "-journal")


class _Speed(click.ParamType[float]):
    """Orders per second; `max` is as fast as they go."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return math.inf if value in ("max", math.inf) else Number(0, min_open=True).convert(value, param, ctx)


@click.command
@click.option(
    "--speed",
    type=_Speed(),
    default="max",
    metavar="N|max",
    help="Orders per second, or as fast as they go. [default: max]",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder of the two databases and the outbox.",
)
@click.option("--fresh", is_flag=True, help="Delete what an earlier demo left in that folder, and begin anew.")
@click.option("--write-store", metavar="URL", help="Another write store than the one in the folder.")
@click.option("--read-store", metavar="URL", help="Another read store than the one in the folder.")
@port_option
@click.option("--no-serve", is_flag=True, help="No pages: send the orders, check the totals, end.")
@click.option("--open", "open_browser", is_flag=True, help="Open the shop in a browser.")
@json_option
def command(
    speed: float,
    data: Path,
    fresh: bool,
    write_store: str | None,
    read_store: str | None,
    port: int,
    no_serve: bool,
    open_browser: bool,
    as_json: bool,
) -> int:
    """Run the example shop on 6,919 real orders.

    The pages are up at once; meanwhile the orders of 1997 and 1998 go through the command side in the order of their
    dates. At the end the read models are asked for the totals, which are known. Interrupted, even by kill -9, and
    started again it goes on where it was. Exits with 3 where the totals are wrong.
    """
    log_to_stderr()
    if fresh and (write_store or read_store):
        raise click.UsageError(
            "--fresh deletes the files in --data; it does not go with --write-store or --read-store."
        )
    if no_serve:
        refuse_memory(write_store or "", "--write-store")
    shop = load_shop()
    if fresh:
        _clear(data)
    app = shop.open(
        write_store=write_store or f"sqlite:///{data / 'log.db'}",
        read_store=read_store or f"sqlite:///{data / 'read_store.db'}",
        outbox=data / "outbox",
    )
    demo = _Demo(shop, app, None if speed == math.inf else speed, as_json=as_json, open_browser=open_browser)
    with fast_runner() as runner:
        try:
            return runner.run(demo.fill_only() if no_serve else demo.serve(port))
        except KeyboardInterrupt:
            return demo.interrupted()


class _Demo:
    def __init__(self, shop: Shop, app: App, speed: float | None, *, as_json: bool, open_browser: bool) -> None:
        self._shop = shop
        self._app = app
        self._speed = speed
        self._as_json = as_json
        self._open_browser = open_browser
        self._reached = 0

    @property
    def _stores(self) -> str:
        return f"--write-store {self._app.settings.write_store} --read-store {self._app.settings.read_store}"

    async def fill_only(self) -> int:
        """Send the orders and check the totals."""
        async with self._app:
            return await self._fill(None)

    async def serve(self, port: int) -> int:
        """Serve the shop, send the orders meanwhile, and go on serving."""
        up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(self._app, port=port, mounts={"/console": console_of(self._app)}, started=up.set_result)
        )
        await _first_of(serving, up)
        if not up.done():
            await serving
            return self.interrupted()
        url = up.result()
        tell("The shop", self._app, url, err=self._as_json)
        for look in (
            f"log --follow --write-store {self._app.settings.write_store}",
            f"projections --watch {self._stores}",
        ):
            click.echo(f"  beside it, try: twofold {look}", err=True)
        if self._open_browser:
            webbrowser.open(url)
        filling = asyncio.create_task(self._fill(url))
        await _first_of(serving, filling)
        if serving.done() or await self._is_stopping():
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
            await serving
            return self.interrupted()
        if filling.exception() is not None:
            # The one way to stop a server: requests under way finish, the app stops.
            signal.raise_signal(signal.SIGTERM)
            await serving
        code = await filling
        await serving
        return code

    def interrupted(self) -> int:
        """Say that nothing is lost."""
        done, total = self._reached, self._shop.expected.orders
        click.echo(f"Interrupted at {done:,} of {total:,} orders. Start it again, and it goes on from there.", err=True)
        return Exit.INTERRUPTED

    async def _is_stopping(self) -> bool:
        try:
            await self._app.status()
        except Unavailable:
            return True
        return False

    async def _fill(self, url: str | None) -> int:
        began = self._app.world.monotonic()
        await self._shop.seed(self._app)
        with Bar("Replaying", "orders", self._app.world) as bar:

            def reached(done: int, total: int) -> None:
                self._reached = done
                bar.reached(done, total, self._shop.date_reached(done))

            sent = await self._shop.replay(self._app, self._speed, reached)
        figures = await self._shop.totals(self._app)
        seconds = self._app.world.monotonic() - began
        right = self._shop.expected.are_in(figures)
        if self._as_json:
            emit({"sent": sent, "seconds": round(seconds, 3), "totals": figures, "right": right, "url": url})
        else:
            self._tell(sent, seconds, figures, url)
        return Exit.OK if right else Exit.UNHEALTHY

    def _tell(self, sent: int, seconds: float, figures: Figures, url: str | None) -> None:
        expected = self._shop.expected
        rate = f", {sent:,} of them now, in {seconds:.1f} s ({sent / seconds:,.0f} orders/s)" if sent else ""
        click.echo(f"\nAll {expected.orders:,} orders are in{rate}. The read models say:")
        rows = [[label, shown] for label, shown in figures.shown()]
        for line in columns(rows, right=frozenset({1})):
            click.echo(f"  {line}")
        if figures == expected:
            click.echo("Exactly what the file of the old shop adds up to.")
        elif expected.are_in(figures):
            click.echo("That is the old shop's orders, and what was ordered here besides.")
        else:
            click.echo("That is NOT what the file of the old shop adds up to:")
            for line in columns([[label, shown] for label, shown in expected.shown()], right=frozenset({1})):
                click.echo(f"  {line}")
        if url is not None:
            click.echo(f"\nStill serving at {url}/. Ctrl-C stops it.")


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _clear(data: Path) -> None:
    """Delete the files of an earlier demo. WiringError where one is running on them."""
    stores = [data / "views.db", data / "log.db"]
    locks = [FileLock(path) for path in stores]
    try:
        # Views first: without their log they could not be used, the other way round they are built anew.
        for path in (Path(f"{write_store}{end}") for write_store in stores for end in _FILES):
            path.unlink(missing_ok=True)
        for mail in data.glob("outbox/*.txt"):
            mail.unlink()
    finally:
        for lock in locks:
            lock.release()
