"""`twofold rebuild`: build a new generation beside the one that serves, compare the two, then switch."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click
import msgspec

from twofold.app import App
from twofold.cli.app_loading import load_app_or_settings
from twofold.cli.building import POLL, until_built
from twofold.cli.diff_output import print_differences
from twofold.cli.operator_actions import action_options, utf8_words
from twofold.cli.operator_client import PATIENCE, OperatorClient, OperatorStatus, operator_client
from twofold.cli.option_checks import refuse_options
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import StoreUrls, opened_stores
from twofold.errors import InvalidMessage, TwofoldError, Unavailable, WiringError
from twofold.operations.compare import Comparison, compare
from twofold.settings import Settings


class RebuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one projection: its new `generation`, and whether that `serves` now.

    `comparison` is None if rows were not compared, or if the generation served already because another operator has
    switched to it. If `standby` is a number, nothing was built: `generation` serves since an earlier call, and the
    `standby` generation must be dropped before another one is built.
    """

    name: str
    generation: int
    serves: bool
    comparison: Comparison | None = None
    standby: int | None = None


class ChangedGenerations(msgspec.Struct, frozen=True):
    """What `--switch-back` or `--drop` did: the generations that serve again, or were dropped."""

    name: str
    generations: list[int]


class RebuildOptions(NamedTuple):
    """What a call of the command is to do."""

    compare: bool
    switch: bool
    yes: bool
    force: bool
    as_json: bool


@click.command
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME…")
@click.option("--no-compare", is_flag=True, help="Switch without comparing the rows.")
@click.option("--no-switch", is_flag=True, help="Build only. Switch with a later call.")
@click.option("--yes", is_flag=True, help="Switch without asking, even if rows differ.")
@click.option("--force", is_flag=True, help="Switch even if keys are parked that were not parked before.")
@click.option("--switch-back", is_flag=True, help="Let the standby generation serve again.")
@click.option("--drop", is_flag=True, help="Drop the generation that is on standby or being built.")
@action_options
def command(words: tuple[str, ...], url: str | None, urls: StoreUrls, as_json: bool, **flags: bool) -> int:
    """Build new generations of read models beside those that serve, compare their rows, and switch.

    All projections NAME read the log in one pass. Queries are answered meanwhile; a client with a position never sees
    an older state after the switch. The generation that served before stays on standby and is kept up to date:
    --switch-back lets it serve again, --drop drops it. An interrupted rebuild goes on where it was if you repeat the
    command.

    With MODULE:APP this command opens the stores. On SQLite a running `serve` holds them, so use --url instead. Rows
    are compared by this process in any case: in the stores of MODULE:APP, or of --write-store and --read-store. If
    rows differ, it asks on a terminal; elsewhere it exits with 3 and does not switch without --yes.
    """
    names = list(dict.fromkeys(utf8_words(words)))
    target = names.pop(0) if names and ":" in names[0] else None
    if not names or (target is None and url is None):
        raise click.UsageError("Write MODULE:APP NAME…, or with --url only NAME….")
    if flags["switch_back"] and flags["drop"]:
        raise click.UsageError("Use either --switch-back or --drop.")
    _refuse_what_has_no_effect(target, url, flags)
    app, settings = load_app_or_settings(target, urls)
    options = RebuildOptions(not flags["no_compare"], not flags["no_switch"], flags["yes"], flags["force"], as_json)
    rebuild = _Rebuild(app, settings, names, options)

    async def run() -> int:
        async with operator_client(app, names, url) as client:
            if flags["switch_back"] or flags["drop"]:
                return await _change(client, names, back=flags["switch_back"], as_json=as_json)
            return await rebuild.run(client)

    return asyncio.run(run())


def _refuse_what_has_no_effect(target: str | None, url: str | None, flags: Mapping[str, bool]) -> None:
    if flags["switch_back"] or flags["drop"]:
        options = ("no_compare", "no_switch", "yes", "force")
        refuse_options(options, "--switch-back and --drop build and compare nothing")
    if flags["no_switch"]:
        refuse_options(("yes", "force"), "with --no-switch nothing is switched to")
    if url is not None and (flags["no_compare"] or flags["switch_back"] or flags["drop"]):
        reason = "with --url no store is opened unless rows are compared"
        refuse_options(("write_store", "read_store"), reason)
        if target is not None:
            raise click.BadOptionUsage("MODULE:APP", f"MODULE:APP has no effect here: {reason}. Leave it out.")


async def _change(client: OperatorClient, names: Sequence[str], *, back: bool, as_json: bool) -> int:
    changes = [
        ChangedGenerations(name, [await client.switch_back(name)] if back else await client.drop(name))
        for name in names
    ]
    if as_json:
        emit(changes)
        return Exit.OK
    for change in changes:
        numbers = ", ".join(map(str, change.generations))
        outcome = f"generation {numbers} {'serves again' if back else 'dropped'}" if numbers else "nothing to drop"
        click.echo(f"{change.name}: {outcome}.")
    return Exit.OK


class _Rebuild:
    """One rebuild."""

    def __init__(self, app: App | None, settings: Settings, names: list[str], options: RebuildOptions) -> None:
        self._row_types = {name: model.row for name, model in app.models.items()} if app else {}
        self._settings = settings
        self._names = names
        self._options = options

    async def run(self, client: OperatorClient) -> int:
        """Build, compare, switch; 3 where something was not switched to, or not built."""
        status = await client.status()
        standby = self._standby(status)
        numbers = await client.rebuild([name for name in self._names if name not in standby])
        await until_built(client, numbers)
        results: list[RebuildResult] = []
        for name in self._names:
            if name in standby:
                serving = status.serving(name) or 0
                results.append(RebuildResult(name=name, generation=serving, serves=True, standby=standby[name]))
            else:
                results.append(await self._finish(client, name, numbers[name]))
            if not self._options.as_json:
                click.echo(printable(f"{name}: {self._summary(results[-1])}"))
        if self._options.as_json:
            emit(results)
        done = all(result.standby is None and (result.serves or not self._options.switch) for result in results)
        return Exit.OK if done else Exit.UNHEALTHY

    def _standby(self, status: OperatorStatus) -> dict[str, int]:
        """The standby generations that must be dropped before another one is built, by name.

        If another projection of this call is being built, an earlier call may have been interrupted after its first
        switch: then the rest goes on. InvalidMessage if none is being built; then nothing is started.
        """
        builds = {name: status.build(name, "standby") for name in self._names if not status.build(name, "building")}
        standby = {name: build.generation for name, build in builds.items() if build is not None}
        if standby and not any(status.build(name, "building") for name in self._names):
            raise InvalidMessage(
                f"Generation {next(iter(standby.values()))} of '{next(iter(standby))}' is on standby. Drop it before "
                f"you rebuild: repeat this command with --drop, for {' '.join(standby)} only.",
                field="name",
            )
        return standby

    async def _finish(self, client: OperatorClient, name: str, number: int) -> RebuildResult:
        """Compare and switch one projection, as far as the options say so."""
        status = await client.status()
        if status.serving(name) == number:
            return RebuildResult(name=name, generation=number, serves=True)
        comparison = await self._compare(client, status, name, number) if self._options.compare else None
        serves = self._options.switch and await self._may_switch(name, comparison)
        if serves:
            number = await self._switch(client, name, number)
        return RebuildResult(name=name, generation=number, serves=serves, comparison=comparison)

    async def _compare(self, client: OperatorClient, status: OperatorStatus, name: str, new: int) -> Comparison:
        old, row_type = status.serving(name) or 0, self._row_types.get(name)
        try:
            async with opened_stores(self._settings, client.world) as (write_store, read_store):
                if write_store.identity.log != status.log:
                    raise WiringError(
                        f"The write store here has the log {write_store.identity.log}, the rebuilt one {status.log}."
                    )
                with progress_bar(f"{name}: comparing", "rows", client.world) as on_rows:
                    comparison = await compare(
                        write_store, read_store, name, old, new, client.world, row=row_type, on_rows=on_rows
                    )
        except (TwofoldError, click.UsageError) as error:
            kind = type(error) if isinstance(error, TwofoldError) else WiringError
            raise kind(
                f"'{name}' is built, but its rows cannot be compared from here. {error} Name the stores with "
                "MODULE:APP, or with --write-store and --read-store, or skip the comparison with --no-compare."
            ) from error
        if not self._options.as_json:
            counts = {
                "equal": comparison.equal,
                "different": comparison.different,
                f"only in generation {old}": comparison.only_old,
                f"only in generation {new}": comparison.only_new,
                "parked": comparison.parked,
                "undecided": comparison.undecided,
            }
            print_differences(f"{name}: {comparison.rows:,} rows compared", counts, comparison.sample)
        return comparison

    async def _may_switch(self, name: str, comparison: Comparison | None) -> bool:
        if comparison is None or comparison.same or self._options.yes:
            return True
        if self._options.as_json or not sys.stdin.isatty():
            return False
        return await _confirmed(f"Rows differ. Switch {name} to generation {comparison.new} anyway?")

    async def _switch(self, client: OperatorClient, name: str, number: int) -> int:
        """Let exactly the generation that was compared serve; its number.

        Under load it is sometimes slightly behind the one that serves: then retry. GenerationChanged where another
        generation has taken its place.
        """
        deadline = client.world.monotonic() + PATIENCE
        while True:
            try:
                return await client.switch(name, generation=number, force=self._options.force)
            except Unavailable:
                if client.world.monotonic() >= deadline:
                    raise
            except InvalidMessage:
                # Another operator has switched to it, or the response to an earlier attempt was lost.
                if (await client.status()).serving(name) == number:
                    return number
                raise
            await client.world.sleep(POLL)

    def _summary(self, result: RebuildResult) -> str:
        number = result.generation
        if result.standby is not None:
            return (
                f"nothing was built. Generation {number} serves since an earlier call, and generation "
                f"{result.standby} is on standby. To rebuild, first repeat this command with --drop, for "
                f"{result.name} only."
            )
        if result.serves:
            return (
                f"generation {number} serves. The previous one is on standby: --switch-back returns to it, --drop "
                "drops it."
            )
        if self._options.switch:
            return f"generation {number} is built, but does not serve because rows differ. Switch with --yes."
        return f"generation {number} is built, but does not serve yet."


async def _confirmed(question: str) -> bool:
    """Ask on the terminal without blocking the event loop: this process keeps its leases meanwhile."""
    click.echo(f"{question} [y/N]: ", nl=False, err=True)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        loop.remove_reader(sys.stdin)
        answered.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin, read)
    try:
        return (await answered).strip().lower() in ("y", "yes")
    finally:
        loop.remove_reader(sys.stdin)
