"""What a policy calls is away: it waits and probes, nothing is parked, and the status says so."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.synchronization.policy_helpers import (
    Note,
    Noted,
    notes,
    parked_keys,
    passes,
    policy_of,
    react_to,
    with_keys,
)
from twofold.app import App
from twofold.errors import FunctionFailed, Unavailable
from twofold.synchronization.outage_breaker import OutageBreaker, ReactionFailure, is_outside
from twofold.testing import FrozenWorld


class Outside:
    """What the policy calls. While it is `away`, every call raises that; `broken` amounts fail always.

    Calls for the amounts in `hangs` end when `ended` is set.
    """

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.broken: dict[int, Exception] = {}
        self.hangs: set[int] = set()
        self.ended = asyncio.Event()
        self.calls: list[int] = []
        self.seen: list[int] = []

    async def answer(self, event: Noted) -> None:
        self.calls.append(event.by)
        await (self.ended.wait() if event.by in self.hangs else asyncio.sleep(0))
        error = self.away or self.broken.get(event.by)
        if error is not None:
            raise error
        self.seen.append(event.by)


async def problems(app: App) -> list[tuple[str, str, str]]:
    return [(each.code, each.level, each.side) for each in (await app.status()).health.problems]


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError("refused"), TimeoutError("no answer"), Unavailable("closed"), RuntimeError("HTTP 503")],
    ids=lambda error: type(error).__name__,
)
async def test_nothing_is_parked_while_the_outside_is_away_and_all_go_on_when_it_is_back(
    tmp_path: Path, error: Exception
) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.away = error
    async with app_in(tmp_path, with_keys(outside.answer), world=world, poll_seconds=900) as app:
        for command in notes(*range(20)):
            await app.send(command)
        await passes(world, app, 12)
        assert (await parked_keys(app), outside.seen) == ([], [])
        status = await policy_of(app)
        assert status.state == "retrying"
        assert status.outage is not None
        assert status.outage.error == f"{type(error).__name__}: {error}"
        assert status.outage.keys >= 5
        assert await problems(app) == [("outside-away", "degraded", "command")]
        before = len(outside.calls)
        await passes(world, app, 3_600)
        # One event at a time, with a delay that grows to half a minute.
        assert 110 <= len(outside.calls) - before <= 125
        assert len(set(outside.calls[before:])) == 20, "the probe is another key each time"
        outside.away = None
        await passes(world, app, 31)
        assert sorted(outside.seen) == list(range(20))
        assert (await parked_keys(app), await problems(app)) == ([], [])
        assert ((await policy_of(app)).state, (await policy_of(app)).outage) == ("up-to-date", None)


async def test_a_policy_without_a_key_waits_for_the_outside_and_keeps_the_order(tmp_path: Path) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.away = ConnectionError("away")
    async with app_in(tmp_path, with_keys(outside.answer, key=None), world=world, poll_seconds=900) as app:
        for command in notes(*range(5)):
            await app.send(command)
        await passes(world, app, 600)
        assert (set(outside.calls), await parked_keys(app)) == ({0}, [])
        assert await problems(app) == [("outside-away", "degraded", "command")]
        outside.away = None
        await passes(world, app, 31)
        assert outside.seen == list(range(5))
        assert await problems(app) == []


@pytest.mark.parametrize("error", [ValueError("no such address"), ConnectionError("this mailbox only")])
async def test_one_event_that_fails_among_others_that_work_is_parked_and_opens_nothing(
    tmp_path: Path, error: Exception
) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.broken[7] = error
    async with app_in(tmp_path, with_keys(outside.answer), world=world, poll_seconds=900) as app:
        for by in range(40):
            await app.send(Note(f"n-{by}", by))
            await passes(world, app, 0.5)
        assert await parked_keys(app) == ["counter:n-7"]
        assert sorted(outside.seen) == [by for by in range(40) if by != 7]
        assert [code for code, *_ in await problems(app)] == ["parked"]
        # Before the retries: it is tried as often as the setting says.
        assert Counter(outside.calls[:12])[7] <= 4


async def test_a_missing_file_is_no_outage(tmp_path: Path) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.broken[0] = FileNotFoundError("template.txt")
    async with app_in(tmp_path, with_keys(outside.answer, key=None), world=world, poll_seconds=900) as app:
        await app.send(Note("a", 0))
        await passes(world, app, 5)
        assert (await parked_keys(app), len(outside.calls)) == (["all"], 4)


async def test_what_was_parked_at_the_beginning_of_an_outage_is_retried_at_its_end(tmp_path: Path) -> None:
    """The events come one by one, each with enough time to be parked."""
    world, outside = FrozenWorld(), Outside()
    outside.away = RuntimeError("HTTP 503")
    async with app_in(tmp_path, with_keys(outside.answer), world=world, poll_seconds=900) as app:
        for command in notes(*range(10)):
            await app.send(command)
            await passes(world, app, 2)
        assert await parked_keys(app) == [f"counter:n-{by}" for by in range(4)]
        outside.away = None
        await passes(world, app, 31)
        assert await parked_keys(app) == []
        assert sorted(outside.seen) == list(range(10))


async def test_an_event_that_fails_for_its_own_sake_ends_an_outage_and_is_parked(tmp_path: Path) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.away = ConnectionError("away")
    async with app_in(tmp_path, with_keys(outside.answer, key=None), world=world, poll_seconds=900) as app:
        await app.send(Note("a", 0))
        await passes(world, app, 60)
        outside.away, outside.broken[0] = None, ValueError("it answers, but not to this")
        await passes(world, app, 120)
        assert await parked_keys(app) == ["all"]
        assert [code for code, *_ in await problems(app)] == ["parked"]


async def test_operators_can_skip_and_pause_in_an_outage_with_more_events_than_are_held(tmp_path: Path) -> None:
    outside = Outside()
    outside.broken[0] = ValueError("broken")
    async with app_in(tmp_path, with_keys(outside.answer), page_events=5, fold_retries=0) as app:
        await app.send(*notes(0))
        await app.send(*notes(1))
        await react_to(app)
        outside.away = ConnectionError("away")
        for command in notes(*range(2, 60)):
            await app.send(command)

        async def is_away() -> bool:
            return (await policy_of(app)).outage is not None

        await until(is_away, "the outage is noticed")
        assert (await app.projections.skip("answers", "counter:n-0")).done
        assert (await app.projections.pause("answers")).done
        outside.away = None
        assert (await app.projections.resume("answers")).done
        await react_to(app)
        assert sorted(outside.seen) == list(range(1, 60))


def test_errors_of_the_outside_are_told_by_their_type_and_by_what_caused_them() -> None:
    def caused(error: Exception, cause: BaseException) -> Exception:
        error.__cause__ = cause
        return error

    assert is_outside(ConnectionResetError())
    assert is_outside(OSError(113, "No route to host"))
    assert is_outside(Unavailable(""))
    assert is_outside(caused(RuntimeError("client library"), TimeoutError()))
    assert not is_outside(ValueError())
    assert not is_outside(PermissionError())
    assert not is_outside(caused(FunctionFailed("The policy 'x'", "raised SystemExit", ""), ConnectionError()))


def test_events_of_a_type_that_calls_nothing_do_not_end_an_outage() -> None:
    breaker, away = OutageBreaker(2, FrozenWorld()), ReactionFailure(ConnectionError("away"), outside=True)
    breaker.failed("mail", "a", away)
    breaker.worked("note")
    breaker.failed("mail", "b", away)
    assert breaker.holds("mail")
    assert breaker.worked("note") == frozenset()
    assert breaker.holds("mail")
    assert breaker.worked("mail") == {"a", "b"}
    assert not breaker.holds("mail")


def test_a_breaker_of_no_keys_never_opens() -> None:
    breaker, away = OutageBreaker(0, FrozenWorld()), ReactionFailure(ConnectionError("away"), outside=True)
    for key in range(100):
        breaker.failed("mail", str(key), away)
    assert not breaker.holds("mail")


async def test_a_reaction_that_never_ends_keeps_no_probe_away(tmp_path: Path) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.hangs = {100}
    async with app_in(tmp_path, with_keys(outside.answer), world=world, poll_seconds=900) as app:
        await app.send(*notes(100))
        await passes(world, app, 1)
        outside.away = ConnectionError("away")
        for command in notes(*range(10)):
            await app.send(command)
        await passes(world, app, 600)
        outside.away = None
        await passes(world, app, 31)
        assert sorted(outside.seen) == list(range(10))
        assert (await policy_of(app)).outage is None


async def test_a_probe_that_never_ends_is_not_waited_for_longer_than_the_longest_delay(tmp_path: Path) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.away = ConnectionError("away")
    async with app_in(tmp_path, with_keys(outside.answer), world=world, poll_seconds=900, policy_concurrency=3) as app:
        for command in notes(*range(10)):
            await app.send(command)
        await passes(world, app, 600)
        outside.away, outside.hangs = None, set(range(10))
        before = len(outside.calls)
        await passes(world, app, 31)
        assert len(outside.calls) == before + 1
        await passes(world, app, 30)
        assert len(outside.calls) == before + 2
        outside.hangs.clear()
        await passes(world, app, 30)
        assert sorted(outside.seen) == sorted({*range(10)} - {*outside.calls[before : before + 2]})


async def test_probes_wait_while_as_many_reactions_hang_as_may_run(tmp_path: Path) -> None:
    world, outside = FrozenWorld(), Outside()
    outside.away = ConnectionError("away")
    async with app_in(tmp_path, with_keys(outside.answer), world=world, poll_seconds=900, policy_concurrency=2) as app:
        for command in notes(*range(10)):
            await app.send(command)
        await passes(world, app, 600)
        outside.away, outside.hangs = None, set(range(10))
        before = len(outside.calls)
        await passes(world, app, 3_600)
        assert len(outside.calls) == before + 2
        outside.hangs.clear()
        outside.ended.set()
        await passes(world, app, 1)
        assert sorted(outside.seen) == list(range(10))
