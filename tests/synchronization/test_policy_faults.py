"""A policy goes on after an outage of the write store, and requests of operators do not mix with its own retries."""

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count
from tests.synchronization.policy_helpers import (
    MARK,
    Note,
    Noted,
    answers,
    notes,
    parked_keys,
    passes,
    policy_of,
    react_to,
    with_keys,
)
from twofold.app import App
from twofold.errors import InvalidMessage, Unavailable
from twofold.synchronization.key_lanes import KeyLanes
from twofold.synchronization.membership import Membership
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction_runner import ReactionRunner
from twofold.testing import FrozenWorld

KEY = "counter:a"


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a driver with a bug")], ids=["away", "bug"])
async def test_a_policy_goes_on_after_the_write_store_was_away_while_a_command_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    send, check = PolicyStorage.send, PolicyStorage.check
    away, checks = [True], 0

    async def cannot_send(self: PolicyStorage, *rest: Any, **options: Any) -> Any:
        if away:
            raise Unavailable("away")
        return await send(self, *rest, **options)

    async def cannot_check(self: PolicyStorage, position: int | None = None) -> None:
        nonlocal checks
        if away and position is not None:
            checks += 1
            raise error
        await check(self, position)

    async def answer(event: Noted) -> Count:
        return Count([event.counter], MARK + event.by)

    monkeypatch.setattr(PolicyStorage, "send", cannot_send)
    monkeypatch.setattr(PolicyStorage, "check", cannot_check)
    async with app_in(tmp_path, with_keys(answer)) as app:
        for command in notes(1, 2):
            await app.send(command)
        await until(lambda: checks >= 2, "it has failed")
        away.clear()
        await react_to(app)
        assert sorted(await answers(app)) == [MARK + 1, MARK + 2]
        assert (await policy_of(app)).error is None


class Mail:
    """What the policy calls. The first event of the key `a` fails with `error`; all calls wait for `go`."""

    def __init__(self) -> None:
        self.error: Exception | None = ValueError("broken")
        self.go = asyncio.Event()
        self.go.set()
        self.other = asyncio.Event()
        self.other.set()
        self.calls: Counter[int] = Counter()
        self.seen: list[int] = []
        self.running = 0
        self.most = 0

    async def send(self, event: Noted) -> None:
        self.calls[event.by] += 1
        if event.counter != "a":
            await self.other.wait()
            return
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if event.by == 1 and self.error is not None:
                raise self.error
            await self.go.wait()
            self.seen.append(event.by)
        finally:
            self.running -= 1


async def parked(folder: Path, mail: Mail) -> None:
    """Park the key `a` at the first of three events."""
    async with app_in(folder, with_keys(mail.send), fold_retries=0) as app:
        for by in (1, 2, 3):
            await app.send(Note("a", by))
        await react_to(app)
        assert await parked_keys(app) == [KEY]


def resting(folder: Path, mail: Mail, monkeypatch: pytest.MonkeyPatch) -> tuple[FrozenWorld, App]:
    """A start at which the parked event fails because the outside is away, and rests for 20 seconds."""
    monkeypatch.setattr("twofold.synchronization.reaction_failures._FIRST_REST_OUTSIDE", 20.0)
    monkeypatch.setattr("twofold.synchronization.reaction_failures._LONGEST_REST_OUTSIDE", 20.0)
    mail.error = ConnectionError("away")
    world = FrozenWorld()
    return world, app_in(folder, with_keys(mail.send), world=world, poll_seconds=900)


async def test_a_key_that_an_operator_retries_is_not_retried_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail()
    await parked(tmp_path, mail)
    world, app = resting(tmp_path, mail, monkeypatch)
    async with app:
        await passes(world, app, 1)
        assert mail.calls[1] == 2
        mail.error = None
        mail.go.clear()
        mail.other.clear()
        await app.send(Note("b", 9))
        await passes(world, app, 1)
        retry = asyncio.create_task(app.projections.retry("answers", KEY, timeout=10_000))
        await passes(world, app, 1)
        assert (mail.calls[1], mail.running) == (3, 1)
        # The end of another reaction starts what waits for its turn.
        mail.other.set()
        await passes(world, app, 30)
        assert (mail.calls[1], mail.running) == (3, 1)
        mail.go.set()
        await passes(world, app, 1)
        assert (await retry).outcome == "It is done. 2 later events of this key follow."
        assert (mail.seen, mail.most, await parked_keys(app)) == ([1, 2, 3], 1, [])


async def test_a_key_that_an_operator_skips_is_not_retried_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail()
    await parked(tmp_path, mail)
    world, app = resting(tmp_path, mail, monkeypatch)
    save, go = PolicyStorage.save, asyncio.Event()

    async def slowly(self: PolicyStorage, changes: Any, *rows: Any) -> None:
        if any(row.space == "acts" for row in rows):
            await go.wait()
        await save(self, changes, *rows)

    monkeypatch.setattr(PolicyStorage, "save", slowly)
    async with app:
        await passes(world, app, 1)
        assert mail.calls[1] == 2
        mail.error = None
        skip = asyncio.create_task(app.projections.skip("answers", KEY, timeout=10_000))
        await passes(world, app, 1)
        # The rest of the key ends while the skip is saved.
        await passes(world, app, 30)
        assert mail.calls[1] == 2
        go.set()
        await passes(world, app, 1)
        assert (await skip).done
        assert (mail.seen, mail.calls[1], await parked_keys(app)) == ([2, 3], 2, [])


async def test_a_key_of_which_a_skip_has_failed_waits_for_a_request_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail()
    await parked(tmp_path, mail)
    save = PolicyStorage.save

    async def refuses(self: PolicyStorage, changes: Any, *rows: Any) -> None:
        if any(row.space == "acts" for row in rows):
            raise InvalidMessage("not now")
        await save(self, changes, *rows)

    async with app_in(tmp_path, with_keys(mail.send)) as app:
        await until(lambda: mail.calls[1] == 2, "it is retried at the start")
        await app.send(Note("b", 8))
        await react_to(app)
        with monkeypatch.context() as patched:
            patched.setattr(PolicyStorage, "save", refuses)
            assert (await app.projections.skip("answers", KEY)).outcome == "not now"
        await app.send(Note("b", 9))
        await react_to(app)
        assert (mail.calls[1], await parked_keys(app)) == (2, [KEY])
        mail.error = None
        assert (await app.projections.retry("answers", KEY)).done
        await until(lambda: mail.seen == [1, 2, 3], "all are answered")


async def test_a_skip_that_cannot_read_what_waits_behind_the_event_leaves_the_key_to_its_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail()
    await parked(tmp_path, mail)
    world, app = resting(tmp_path, mail, monkeypatch)
    async with app:
        await passes(world, app, 1)
        mail.error = None
        with monkeypatch.context() as patched:

            async def breaks(*_: Any) -> None:
                raise ValueError("cannot be read")

            patched.setattr("twofold.synchronization.key_backlog.KeyBacklog.after_first", breaks)
            skip = asyncio.create_task(app.projections.skip("answers", KEY))
            await passes(world, app, 1)
            assert "cannot be read" in (await skip).outcome
        await passes(world, app, 30)
        assert (mail.seen, await parked_keys(app)) == ([1, 2, 3], [])


async def test_without_its_lease_a_node_starts_no_reaction_and_goes_on_when_it_has_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, mail, world = [True], Mail(), FrozenWorld()
    monkeypatch.setattr(Membership, "may_follow", lambda _: bool(held))
    async with app_in(tmp_path, with_keys(mail.send), world=world, poll_seconds=900, policy_concurrency=1) as app:
        mail.error = None
        mail.go.clear()
        for command in (Note("a", 1), Note("a", 2), Note("b", 3)):
            await app.send(command)
        await passes(world, app, 1)
        assert mail.calls == {1: 1}
        held.clear()
        mail.go.set()
        await passes(world, app, 10)
        assert (mail.seen, mail.calls) == ([1], {1: 1})
        held.append(True)
        await passes(world, app, 30)
        assert (mail.seen, mail.calls) == ([1, 2], {1: 1, 2: 1, 3: 1})


def test_a_rest_that_was_ended_early_does_not_end_a_later_one_of_the_same_key() -> None:
    lanes = KeyLanes()
    lane = lanes.lane("a")
    lanes.rest(lane, 5.0)
    lanes.end_rest(lane)
    lanes.rest(lane, 50.0)
    assert lanes.wake(10.0) == 50.0
    assert lane.rests
    assert lanes.wake(50.0) is None
    assert not lane.rests


async def test_events_that_a_parked_key_has_answered_and_not_saved_are_known_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = [True]

    async def answer(event: Noted) -> list[Count]:
        if fails and event.by == 1:
            raise ValueError("broken")
        return [Count([event.counter], MARK + event.by), Count([event.counter], MARK + event.by)]

    async def cannot_save(self: PolicyStorage, *_: Any) -> None:
        raise Unavailable("away")

    async def all_wait(app: App) -> bool:
        return [each.waiting for each in (await policy_of(app)).parked] == [4]

    async def all_answered(app: App) -> bool:
        return len(await answers(app)) == 10

    async def nothing_parked(app: App) -> bool:
        status = await policy_of(app)
        return not status.parked_count and not status.lag

    def open_only(self: ReactionRunner, parked: Any, **_: Any) -> None:
        open_runner(self, parked, retry=False)

    async def other_key_saved(app: App) -> bool:
        return not (await policy_of(app)).lag and len(await answers(app)) == 12

    open_runner = ReactionRunner.open
    async with app_in(tmp_path, with_keys(answer), fold_retries=0) as app:
        for by in range(1, 6):
            await app.send(Note("a", by))
        await until(partial(all_wait, app), "four wait")
        fails.clear()
        with monkeypatch.context() as patched:
            # The commands are written, but not how far the key has come by them.
            patched.setattr(PolicyStorage, "save", cannot_save)
            with suppress(Unavailable):
                await app.projections.retry("answers", KEY)
            await until(partial(all_answered, app), "all are answered")
            await app.stop()
    with monkeypatch.context() as patched:
        # The next process saves something else before it goes on with the key.
        patched.setattr(ReactionRunner, "open", open_only)
        async with app_in(tmp_path, with_keys(answer), fold_retries=0) as app:
            assert (await policy_of(app)).parked_count == 1
            await app.send(Note("b", 6))
            await until(partial(other_key_saved, app), "the other key is answered")
            await app.projections.retry("answers", KEY)
            await until(partial(nothing_parked, app), "the key goes on")
            assert await answers(app) == [MARK + by for by in range(1, 7) for _ in range(2)]
