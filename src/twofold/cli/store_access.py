"""The stores a command works on: the options that name them, and how they are opened and closed."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, NamedTuple

import click

from twofold.cli.output import printable
from twofold.read_store.port import ReadStore
from twofold.settings import Settings
from twofold.stores import open_read_store, open_write_store
from twofold.world import World
from twofold.write_store.log_content import HasSnapshots
from twofold.write_store.port import WriteStore

write_store_option = click.option(
    "--write-store", metavar="URL", help="The write store. [default: TWOFOLD_WRITE_STORE or sqlite:///data/log.db]"
)
_read_store_option = click.option(
    "--read-store", metavar="URL", help="The read store. [default: TWOFOLD_READ_STORE or sqlite:///data/views.db]"
)


class StoreUrls(NamedTuple):
    """The values of `--write-store` and `--read-store`; None where the option is not given."""

    write_store: str | None = None
    read_store: str | None = None

    def settings(self) -> Settings:
        """Settings from the environment, with these stores."""
        return Settings.from_environment(write_store=self.write_store, read_store=self.read_store)


def store_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options `--write-store` and `--read-store`. It receives both as `urls`."""

    @write_store_option
    @_read_store_option
    @wraps(command)
    def with_urls(write_store: str | None, read_store: str | None, **options: Any) -> int:
        return command(urls=StoreUrls(write_store, read_store), **options)

    return with_urls


def refuse_memory(url: str, option: str) -> None:
    """UsageError where a store that another process cannot read is named."""
    if url.startswith("memory:"):
        raise click.BadOptionUsage(
            option,
            f"A store {url} exists only inside its process. Use a file or a server, or ask the running `serve` "
            "over HTTP: /events and /status.",
        )


def refuse_memory_place(url: str, option: str) -> None:
    """UsageError where a log is to be copied from or to memory."""
    if url.partition(":")[0].lower() == "memory":
        raise click.BadOptionUsage(
            option, f"{option} {url} names no place: a log in memory ends with its process. Name a file or a server."
        )


def refuse_memory_stores(settings: Settings) -> None:
    """UsageError where one of the two stores exists only in memory."""
    refuse_memory(settings.write_store, "--write-store")
    refuse_memory(settings.read_store, "--read-store")


@asynccontextmanager
async def opened_log(settings: Settings, world: World, *, read_only: bool = True) -> AsyncGenerator[WriteStore]:
    """The write store that `settings` name, until the context ends."""
    refuse_memory(settings.write_store, "--write-store")
    write_store = await open_write_store(settings.write_store, settings, world, read_only=read_only)
    try:
        if read_only:
            await _warn_of_a_moved_log(write_store)
        yield write_store
    finally:
        await write_store.close()


async def _warn_of_a_moved_log(write_store: WriteStore) -> None:
    """Say on stderr that a log was moved: it can be read, but gets nothing new."""
    if isinstance(write_store, HasSnapshots):
        async with write_store.snapshot() as snapshot:
            use = snapshot.use
        if use.use == "moved":
            click.echo(
                f"Warning: this log was moved to {printable(use.place)}, and nothing is written here any more. Name "
                "that place with --write-store or TWOFOLD_WRITE_STORE.",
                err=True,
            )


@asynccontextmanager
async def opened_stores(settings: Settings, world: World) -> AsyncGenerator[tuple[WriteStore, ReadStore]]:
    """Both stores that `settings` name, read-only beside other processes, until the context ends."""
    refuse_memory(settings.read_store, "--read-store")
    async with opened_log(settings, world) as write_store:
        read_store = await open_read_store(settings.read_store, world, read_only=True)
        try:
            yield write_store, read_store
        finally:
            await read_store.close()
