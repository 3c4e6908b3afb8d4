"""`twofold demo`: serve the example shop while the orders of an old shop are sent to it."""

import asyncio
import math
import signal
import webbrowser
from pathlib import Path
from typing import Any

import click

from twofold.app import App
from twofold.cli.app_loading import Number, json_option, port_option
from twofold.cli.demo_shop import Shop, ShopTotals, load_shop
from twofold.cli.log_handler import LOG
from twofold.cli.option_checks import refuse_options
from twofold.cli.output import Exit, emit
from twofold.cli.progress_bar import progress_bar
from twofold.cli.serve_command import console_of, print_addresses
from twofold.cli.store_access import refuse_memory
from twofold.errors import Unavailable
from twofold.http.server import fast_runner, serve
from twofold.sqlite_lock import FileLock

FOLDER = Path("data/demo")
_FILES = ("", "-wal", "-shm", "-journal")


class _Speed(click.ParamType[float]):
    """Orders per second; `max` means as fast as possible."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return math.inf if value in ("max", math.inf) else Number(0, min_open=True).convert(value, param, ctx)


@click.command
@click.option(
    "--speed",
    type=_Speed(),
    default="max",
    metavar="N|max",
    help="Orders per second, or as fast as possible. [default: max]",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder for the two databases and the outbox.",
)
@click.option("--fresh", is_flag=True, help="Delete the files of an earlier demo in that folder, and start again.")
@click.option("--write-store", metavar="URL", help="Use this write store instead of the one in the folder.")
@click.option("--read-store", metavar="URL", help="Use this read store instead of the one in the folder.")
@port_option
@click.option("--no-serve", is_flag=True, help="Send the orders, check the totals and exit, without pages.")
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

    The pages are available at once. Meanwhile the orders of 1997 and 1998 are sent as commands, in the order of their
    dates. At the end the totals of the read models are compared with the known ones. If the demo is interrupted, even
    by kill -9, the next start goes on where it was. Exits with 3 if the totals are wrong.
    """
    LOG.serve()
    if fresh and (write_store or read_store):
        raise click.UsageError("--fresh deletes files in --data. Use it without --write-store and --read-store.")
    if no_serve:
        refuse_options(("port", "open_browser"), "with --no-serve there are no pages")
        refuse_memory(write_store or "", "--write-store")
    shop = load_shop()
    if fresh:
        _clear(data)
    app = shop.open(
        write_store=write_store or f"sqlite:///{data / 'log.db'}",
        read_store=read_store or f"sqlite:///{data / 'views.db'}",
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
        self._sent = 0

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
        print_addresses("The shop", self._app, url, err=self._as_json)
        stores = self._app.settings
        click.echo(f"  Try: twofold log --follow --write-store {stores.write_store}", err=True)
        click.echo(
            f"  Try: twofold projections --watch --write-store {stores.write_store} --read-store {stores.read_store}",
            err=True,
        )
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
            # A signal is the only way to stop the server: current requests finish, then the app stops.
            signal.raise_signal(signal.SIGTERM)
            await serving
        code = await filling
        await serving
        return code

    def interrupted(self) -> int:
        """Report how far the demo was."""
        done, total = self._sent, self._shop.expected.orders
        click.echo(f"Interrupted at {done:,} of {total:,} orders. Start the demo again to go on.", err=True)
        return Exit.INTERRUPTED

    async def _is_stopping(self) -> bool:
        try:
            await self._app.status()
        except Unavailable:
            return True
        return False

    async def _fill(self, url: str | None) -> int:
        start = self._app.world.monotonic()
        await self._shop.seed(self._app)
        with progress_bar("Replaying", "orders", self._app.world) as update:

            def on_progress(done: int, total: int) -> None:
                self._sent = done
                update(done, total, self._shop.date_reached(done))

            sent = await self._shop.replay(self._app, self._speed, on_progress)
        totals = await self._shop.totals(self._app)
        seconds = self._app.world.monotonic() - start
        right = self._shop.expected.included_in(totals)
        if self._as_json:
            emit({"sent": sent, "seconds": round(seconds, 3), "totals": totals, "right": right, "url": url})
        else:
            self._print(sent, seconds, totals, url)
        return Exit.OK if right else Exit.UNHEALTHY

    def _print(self, sent: int, seconds: float, totals: ShopTotals, url: str | None) -> None:
        expected = self._shop.expected
        rate = f", {sent:,} of them sent now in {seconds:.1f} s ({sent / seconds:,.0f} orders/s)" if sent else ""
        click.echo(f"\nAll {expected.orders:,} orders are in the log{rate}. Totals of the read models:")
        click.echo(totals.table())
        if totals == expected:
            click.echo("These are exactly the totals of the old shop.")
        elif expected.included_in(totals):
            click.echo("These are the totals of the old shop plus the orders placed here.")
        else:
            click.echo("These totals are WRONG. The totals of the old shop are:")
            click.echo(expected.table())
        if url is not None:
            click.echo(f"\nStill serving at {url}/. Ctrl-C stops it.")


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _clear(data: Path) -> None:
    """Delete the files of an earlier demo. WiringError where a running demo uses them."""
    stores = [data / "views.db", data / "log.db"]
    locks = [FileLock(path) for path in stores]
    try:
        # The read store first: it can be rebuilt from the log, but is of no use without it.
        for path in (Path(f"{store}{suffix}") for store in stores for suffix in _FILES):
            path.unlink(missing_ok=True)
        for mail in data.glob("outbox/*.txt"):
            mail.unlink()
    finally:
        for lock in locks:
            lock.release()
