"""In charge of `twofold rebuild`: a new generation beside the one that serves, compared with it, then switched to."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import click
import msgspec

from twofold.app import App
from twofold.cli.app_loading import json_option, load_app, refuse_memory, store_option, views_option
from twofold.cli.building import POLL, until_built
from twofold.cli.diff_output import count_of, sampled
from twofold.cli.operator_actions import words_of
from twofold.cli.output import Exit, emit, printable
from twofold.cli.rebuild_client import By, Seen, asked, visited
from twofold.cli.remote import url_option
from twofold.errors import InvalidMessage, TwofoldError, Unavailable, WiringError
from twofold.operations.compare import Comparison, compare
from twofold.settings import Settings
from twofold.stores import open_read_store, open_write_store

_PATIENCE = 30.0


class Rebuilt(msgspec.Struct, frozen=True):
    """What came of one projection: its `generation` that was built, and whether it `serves` now.

    `comparison` is None where nobody wanted it, and where it served already: somebody else has switched. `kept` is
    None, unless nothing was built of this one: `generation` serves since an earlier call, be it one that was broken off
    or one of last week, and `kept` stands in the way of another.
    """

    name: str
    generation: int
    serves: bool
    comparison: Comparison | None = None
    kept: int | None = None


class Changed(msgspec.Struct, frozen=True):
    """What `--back` or `--drop` did: the generations that serve again, or are gone."""

    name: str
    generations: list[int]


@click.command
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME…")
@click.option("--no-compare", is_flag=True, help="Switch without comparing the rows.")
@click.option("--no-switch", is_flag=True, help="Leave it built, and switch later.")
@click.option("--yes", is_flag=True, help="Switch although rows differ, without asking.")
@click.option("--force", is_flag=True, help="Switch although keys are parked that were not before.")
@click.option("--back", is_flag=True, help="Let the generation that served before serve again.")
@click.option("--drop", is_flag=True, help="Give up what is kept, or being built.")
@url_option
@store_option
@views_option
@json_option
def command(
    words: tuple[str, ...],
    no_compare: bool,
    no_switch: bool,
    yes: bool,
    force: bool,
    back: bool,
    drop: bool,
    url: str | None,
    write_store: str | None,
    read_store: str | None,
    as_json: bool,
) -> int:
    """Build read models anew beside those that serve, compare, and switch.

    All projections NAME read the log in one pass. Answers go on meanwhile; whoever carries a position never goes back
    in time across the switch. What served before is kept, and followed, as the way back: `--back`. `--drop` gives it
    up. Interrupted or killed, it goes on where it was when it is called again.

    With MODULE:APP the stores are opened; on SQLite a running `serve` holds them, so ask it with --url instead. Rows
    are compared here all the same, read from the stores of MODULE:APP or those that --write-store and
    --read-store name. Exits
    with 3, and does not switch, where rows differ and nobody said --yes.
    """
    given = list(dict.fromkeys(words_of(words)))
    target = given.pop(0) if given and ":" in given[0] else None
    if not given or (target is None and url is None):
        raise click.UsageError("Write MODULE:APP NAME…, or with --url only NAME….")
    if back and drop:
        raise click.UsageError("--back and --drop are two things to do.")
    app = load_app(target, write_store=write_store, read_store=read_store) if target else None
    settings = app.settings if app else Settings.from_environment(write_store=write_store, read_store=read_store)
    how = {"comparing": not no_compare, "switching": not no_switch}
    rebuild = _Rebuild(app, settings, given, **how, yes=yes, force=force, as_json=as_json)
    return asyncio.run(_run(rebuild, app, url, back=back, drop=drop))


async def _run(rebuild: "_Rebuild", app: App | None, url: str | None, *, back: bool, drop: bool) -> int:
    async with _by(app, rebuild.names, url) as by:
        if back or drop:
            return await _change(by, rebuild.names, back=back, as_json=rebuild.as_json)
        return await rebuild.run(by)


@asynccontextmanager
async def _by(app: App | None, names: Sequence[str], url: str | None) -> AsyncGenerator[By]:
    if url is not None:
        yield asked(url)
        return
    assert app is not None
    refuse_memory(app.settings.write_store, "--write-store")
    refuse_memory(app.settings.read_store, "--read-store")
    async with visited(app, names) as by:
        yield by


async def _change(by: By, names: Sequence[str], *, back: bool, as_json: bool) -> int:
    done = [Changed(name, [await by.back(name)] if back else await by.drop(name)) for name in names]
    if as_json:
        emit(done)
    for each in [] if as_json else done:
        numbers = ", ".join(map(str, each.generations))
        did = (
            f"generation {numbers} {'serves again' if back else 'dropped'}" if numbers else "there was nothing to drop"
        )
        click.echo(f"{each.name}: {did}.")
    return Exit.OK


class _Rebuild:
    """One call of the command."""

    def __init__(
        self,
        app: App | None,
        settings: Settings,
        names: list[str],
        *,
        comparing: bool,
        switching: bool,
        yes: bool,
        force: bool,
        as_json: bool,
    ) -> None:
        self.names = names
        self.as_json = as_json
        self._rows = {name: model.row for name, model in app.models.items()} if app else {}
        self._settings = settings
        self._comparing = comparing
        self._switching = switching
        self._yes = yes
        self._force = force

    async def run(self, by: By) -> int:
        """Build, compare, switch; 3 where something differs and was not switched to, or could not be built."""
        seen = await by.look()
        kept = self._kept(seen)
        numbers = await by.rebuild([name for name in self.names if name not in kept])
        await until_built(by, numbers)
        rebuilt: list[Rebuilt] = []
        for name in self.names:
            if name in kept:
                rebuilt.append(Rebuilt(name, seen.serving[name], True, kept=kept[name]))
            else:
                rebuilt.append(await self._finish(by, name, numbers[name]))
            self._tell(rebuilt[-1])
        if self.as_json:
            emit(rebuilt)
        left = [each for each in rebuilt if each.kept is not None or (self._switching and not each.serves)]
        return Exit.UNHEALTHY if left else Exit.OK

    def _kept(self, seen: Seen) -> dict[str, int]:
        """The generations that stand in the way of another one, by name.

        Where one of the others is under way, an earlier call may have been broken off behind its first switch: this one
        goes on with the rest. InvalidMessage where none is: nothing is begun then.
        """
        builds = {name: seen.build(name, "standby") for name in self.names if not seen.build(name, "building")}
        kept = {name: build.generation for name, build in builds.items() if build is not None}
        if kept and not any(seen.build(name, "building") for name in self.names):
            raise InvalidMessage(
                f"The generation of '{next(iter(kept))}' that served before is still kept, as the way back. Drop it "
                f"first: add --drop to this command, with {' '.join(kept)} alone.",
                field="name",
            )
        return kept

    async def _finish(self, by: By, name: str, number: int) -> Rebuilt:
        seen = await by.look()
        if seen.serving.get(name) == number:
            return Rebuilt(name, number, True)
        comparison = await self._compare(by, seen, name, number) if self._comparing else None
        if comparison is not None:
            self._tell_comparison(comparison)
        if not (self._switching and await self._may_switch(name, comparison)):
            return Rebuilt(name, number, False, comparison)
        return Rebuilt(name, await self._switch(by, name, number), True, comparison)

    async def _compare(self, by: By, seen: Seen, name: str, new: int) -> Comparison:
        settings = self._settings
        async with AsyncExitStack() as stack:
            try:
                write_store = await open_write_store(settings.write_store, settings, by.world, read_only=True)
                stack.push_async_callback(write_store.close)
                read_store = await open_read_store(settings.read_store, by.world, read_only=True)
                stack.push_async_callback(read_store.close)
                if write_store.identity.log != seen.log:
                    raise WiringError(
                        f"The log there is {write_store.identity.log}, and what is asked keeps {seen.log}."
                    )
            except TwofoldError as error:
                raise type(error)(
                    f"The rows of '{name}' are built, but cannot be compared from here. {error} Name the stores with "
                    "MODULE:APP, or --write-store and --read-store; or go on without: --no-compare."
                ) from error
            return await compare(
                write_store, read_store, name, seen.serving[name], new, by.world, row=self._rows.get(name)
            )

    async def _may_switch(self, name: str, comparison: Comparison | None) -> bool:
        if comparison is None or comparison.same or self._yes:
            return True
        if self.as_json or not sys.stdin.isatty():
            return False
        return await _confirmed(f"Switch {name} to generation {comparison.new} all the same?")

    async def _switch(self, by: By, name: str, number: int) -> int:
        """Let the generation serve that was compared, and no other; which one does.

        Under load it is now and then a moment behind the one that serves: try again. Conflict where somebody has put
        another one in its place meanwhile.
        """
        deadline = by.world.monotonic() + _PATIENCE
        while True:
            try:
                return await by.switch(name, generation=number, force=self._force)
            except Unavailable:
                if by.world.monotonic() >= deadline:
                    raise
            except InvalidMessage:
                # Somebody else has switched to it meanwhile, or the answer to an earlier try was lost.
                if (await by.look()).serving.get(name) == number:
                    return number
                raise
            await by.world.sleep(POLL)

    def _tell(self, done: Rebuilt) -> None:
        if self.as_json:
            return
        if done.kept is not None:
            words = (
                f"nothing was built. Generation {done.generation} serves since an earlier call, and {done.kept} is "
                f"kept as the way back. If it is to be built anew, drop that first: --drop with {done.name} alone."
            )
        elif done.serves:
            words = (
                f"generation {done.generation} serves; the one before is kept: --back goes back, --drop gives it up."
            )
        elif self._switching:
            words = f"generation {done.generation} is built, and does not serve: rows differ. Switch with --yes."
        else:
            words = f"generation {done.generation} is built, and does not serve yet."
        click.echo(printable(f"{done.name}: {words}"))

    def _tell_comparison(self, comparison: Comparison) -> None:
        if self.as_json:
            return
        click.echo(printable(f"{comparison.name}: {count_of(comparison)}"))
        for line in sampled(comparison.sample):
            click.echo(printable(line))


async def _confirmed(question: str) -> bool:
    """What whoever sits at the terminal says. What runs on this loop goes on meanwhile: it holds leases."""
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
