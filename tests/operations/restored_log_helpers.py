"""A bank whose log is replaced by an older copy of itself, at a random moment, and what must hold afterwards."""

import contextlib
from random import Random

from tests.sample_domains import bank
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import ForkedHistory, InvalidMessage, Rejected, Unavailable
from twofold.operations.recover import plan_recovery, recover
from twofold.settings import Settings
from twofold.stores import open_read_store, open_write_store
from twofold.write_store.port import WriteStore

ACCOUNTS = [f"a{n}" for n in range(3)]
BALANCES = Projection("balances", bank.chained_balance, key=bank.AccountId)


def bank_module() -> Module:
    return Module(
        "bank",
        events=bank.EVENTS,
        models=bank.MODELS,
        decisions=bank.DECISIONS,
        projections=[BALANCES],
        queries=[bank.chained_balance_of],
    )


def bank_app(write_store: str, read_store: str) -> App:
    settings = Settings(poll_seconds=0.02, write_store=write_store, read_store=read_store)
    return App(bank_module(), write_store=write_store, read_store=read_store, settings=settings)


class Bank:
    """A bank over two stores, with the tokens it has given to callers and the events they were given for."""

    def __init__(self, write_store: str, read_store: str, random: Random) -> None:
        self.write_store = write_store
        self.read_store = read_store
        self.random = random
        self.tokens: dict[str, list[str]] = {}
        """For each token the ids of all events up to its position."""

    def app(self, read_store: str | None = None) -> App:
        return bank_app(self.write_store, read_store or self.read_store)

    async def work(self, app: App, commands: int) -> int:
        """Send random commands; how many were accepted. Withdrawals try to take what is there at most."""
        accepted = 0
        for _ in range(commands):
            account = self.random.choice(ACCOUNTS)
            command = bank.any_command(self.random, len(ACCOUNTS))
            if self.random.random() < 0.5:
                command = bank.Withdraw(account, self.random.randint(1, 60))
            with contextlib.suppress(Rejected):
                receipt = await app.send(command)
                accepted += 1
                self.tokens[receipt.token] = [event.id for event in (await app.log(limit=1_000)).events]
        return accepted

    async def follow(self, app: App) -> None:
        """Wait until the read model is at the head."""
        head = (await app.log(limit=1)).head
        await app.ask(bank.ChainedBalanceOf("a0"), position=app.token(head), timeout=60)

    async def read_model_position(self) -> int:
        read_store = await open_read_store(self.read_store, self.app().world, read_only=True)
        try:
            return max((at.progress.position for at in await read_store.checkpoints()), default=0)
        finally:
            await read_store.close()

    async def check_restored(self, before: list[str]) -> bool:
        """Start on a restored log. Either all is right, or all that is wrong is named; whether the read model fitted.

        `before` has the ids of the events of the lost history. In the end the log is accepted, and all is right.
        """
        position = await self.read_model_position()
        app = self.app()
        async with app:
            now = [event.id for event in (await app.log(limit=1_000)).events]
            fits = now[:position] == before[:position] and position <= len(now)
            await self._check_tokens(app, now)
            if fits:
                await self._is_right(app)
                return True
            await self._is_refused(app)
        async with self._stores(app) as (write_store, read_store):
            plan = await plan_recovery(app, write_store, read_store)
            assert [(each.name, each.position) for each in plan.generations] == [("balances", position)]
            epoch = await recover(app, write_store, read_store, plan)
            assert epoch == plan.epoch + 1
        app = self.app()
        async with app:
            await self._is_right(app)
            await self._check_tokens(app, [event.id for event in (await app.log(limit=1_000)).events])
        return False

    @contextlib.asynccontextmanager
    async def _stores(self, app: App):  # type: ignore[no-untyped-def]
        write_store = await open_write_store(self.write_store, app.settings, app.world)
        read_store = await open_read_store(self.read_store, app.world)
        try:
            yield write_store, read_store
        finally:
            await read_store.close()
            await write_store.close()

    async def _check_tokens(self, app: App, now: list[str]) -> None:
        """A token is good exactly if the log has the events it was given for."""
        for token, events in self.tokens.items():
            held = now[: len(events)] == events
            try:
                assert await app.position_of(token) == len(events)
                assert held, f"{token} is of another history, and is accepted"
            except InvalidMessage:
                assert not held, f"{token} is of this history, and is refused"

    async def _is_refused(self, app: App) -> None:
        for attempt in (app.send(bank.Deposit("a0", 1)), app.ask(bank.ChainedBalanceOf("a0"))):
            try:
                await attempt
            except ForkedHistory as error:
                assert "twofold recover" in str(error)
            else:
                raise AssertionError("a read model of another history was not noticed")
        health = (await app.status()).health
        assert health.command_side == "not_ready"

    async def _is_right(self, app: App) -> None:
        """Commands are taken, the rule holds in the log, and the read model is the fold of the log."""
        await self.work(app, self.random.randint(0, 3))
        await self.follow(app)
        rows: dict[str, bank.ChainedBalance | None] = {}
        for recorded in (await app.log(limit=1_000)).events:
            event = app.events.decode(recorded)
            for account in ACCOUNTS:
                if account in {value for value in vars_of(event)}:
                    rows[account] = bank.chained_balance(rows.get(account), event, account)
                    row = rows[account]
                    assert row is None or row.cents >= 0, "the rule is broken in the log"
        for account in ACCOUNTS:
            answer = await app.ask(bank.ChainedBalanceOf(account))
            assert answer.value == rows.get(account)


def vars_of(event: object) -> list[object]:
    return [getattr(event, name) for name in event.__struct_fields__]  # type: ignore[attr-defined]


async def event_ids(write_store: WriteStore) -> list[str]:
    return [event.id for event in (await write_store.read(ALL_EVENTS)).events]


async def is_refused(app: App, command: object) -> bool:
    """Whether a running app that has seen a lost history refuses a command."""
    try:
        await app.send(command)
    except (Unavailable, ForkedHistory):
        return True
    return False
