"""An app whose PostgreSQL fails over: tokens and read models go on where nothing was lost, and else are refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import settled, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, TotalOf, add_up, counters
from tests.servers.postgres import Postgres
from tests.servers.standby import standby_of
from tests.write_store.failover_helpers import on
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App, Receipt
from twofold.errors import ForkedHistory, InvalidMessage, Unavailable
from twofold.settings import Settings


@pytest.fixture
def primary(postgres_bindir: Path) -> Iterator[Postgres]:
    with Postgres(postgres_bindir) as primary:
        yield primary


def app_on(url: str, read_store: Path, fold: Callable[..., Total | None] = add_up) -> App:
    return App(
        counters(fold), write_store=url, read_store=f"sqlite:///{read_store}", settings=Settings(poll_seconds=0.02)
    )


async def counted(app: App, *by: int) -> list[Receipt]:
    return [await app.send(Count(["k"], n)) for n in by]


async def test_tokens_and_read_models_outlive_a_failover_that_loses_nothing(primary: Postgres, tmp_path: Path) -> None:
    folded: list[int] = []

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        assert isinstance(event, Counted)
        folded.append(event.by)
        return add_up(row, event, counter)

    with standby_of(primary, synchronous=True) as standby:
        url = on(await fresh_log(primary.dsn), primary, standby)
        async with app_on(url, tmp_path / "views.db", fold) as app:
            before = await counted(app, 1, 2, 3)
            await settled(app)
            primary.kill()
            standby.promote()
            (after,) = await counted(app, 4)
            assert (after.position, after.repeated) == (4, False)
            for receipt, total in ((before[0], 10), (before[2], 10), (after, 10)):
                answer = await app.ask(TotalOf("k"), position=receipt.token)
                # What an old token asks for may be answered before the last event is folded.
                assert answer.position >= receipt.position
                assert answer.value.total in ((total,) if receipt is after else (6, total))
            assert (await app.status()).health.problems == ()
        # Another process, which has never known the first epoch.
        async with app_on(url, tmp_path / "views.db", fold) as again:
            assert (await again.ask(TotalOf("k"), position=before[2].token)).value.total == 10
            await counted(again, 5)
            assert (await settled(again))["k"].total == 15
    assert folded == [1, 2, 3, 4, 5], "the read model went on from its checkpoint"


async def test_an_app_that_has_seen_lost_events_says_so_and_answers_nothing(primary: Postgres, tmp_path: Path) -> None:
    with standby_of(primary) as standby:
        url = on(await fresh_log(primary.dsn), primary, standby)
        async with app_on(url, tmp_path / "views.db") as app:
            await counted(app, 1, 2)
            standby.catch_up()
            standby.pause_receiving()
            (_, lost) = await counted(app, 3, 4)
            assert (await settled(app))["k"].total == 10
            primary.kill()
            standby.promote()

            with pytest.raises(Unavailable, match="has seen position 4, but epoch 2 continues after 2"):
                await counted(app, 5)
            for position in (None, lost.token):
                with pytest.raises(Unavailable, match="has lost events"):
                    await app.ask(TotalOf("k"), position=position)

            async def stopped() -> bool:
                return (await app.status()).followers[0].state == "retrying"

            await until(stopped, "the follower to be refused, too")
            status = await app.status()
            health = status.health
            assert (health.command_side, health.query_side, status.head) == ("not_ready", "not_ready", 4)
            assert "has lost events: this process has seen position 4" in health.problems[0].message
            assert "restart the process" in health.problems[0].message


async def test_after_a_loss_read_models_and_tokens_of_what_is_gone_are_refused_and_older_ones_are_not(
    primary: Postgres, tmp_path: Path
) -> None:
    with standby_of(primary) as standby:
        url = on(await fresh_log(primary.dsn), primary, standby)
        async with app_on(url, tmp_path / "behind.db") as app:
            kept = await counted(app, 1, 2)
            await settled(app)
        standby.catch_up()
        standby.pause_receiving()
        async with app_on(url, tmp_path / "ahead.db") as app:
            lost = await counted(app, 3, 4)
            await settled(app)
        primary.kill()
        standby.promote()

        refused = (
            "The read model 'totals' is at position 4, and this log does not hold that position.* `twofold recover`"
        )
        async with app_on(url, tmp_path / "ahead.db") as app:
            with pytest.raises(ForkedHistory, match=refused):
                await counted(app, 5)
            with pytest.raises(ForkedHistory, match=refused):
                await app.ask(TotalOf("k"))
        async with app_on(url, tmp_path / "behind.db") as app:
            # The new history grows beyond what was lost: positions alone could not tell them apart any more.
            new = await counted(app, 10, 20, 30)
            assert [receipt.position for receipt in new] == [3, 4, 5]
            assert (await settled(app))["k"].total == 63
            for receipt in (*kept, *new):
                assert (await app.ask(TotalOf("k"), position=receipt.token)).value.total == 63
            for receipt in lost:
                with pytest.raises(InvalidMessage, match="The log does not hold this position"):
                    await app.ask(TotalOf("k"), position=receipt.token)
        async with app_on(url, tmp_path / "ahead.db") as app:
            with pytest.raises(ForkedHistory, match=refused):
                await counted(app, 5)
        (tmp_path / "ahead.db").unlink()
        async with app_on(url, tmp_path / "ahead.db") as app:
            assert (await settled(app))["k"].total == 63
