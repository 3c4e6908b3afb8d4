"""The commands of a policy that a rule rejected are listed: stored, each once, the last ones."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in
from tests.sample_domains.counters import Count, Counted, CounterId
from tests.synchronization.policy_helpers import MARK, Note, Noted, answers, note, notes, passes, policy_of, react_to
from twofold.domain.module import Module
from twofold.domain.policy import Later, Policy
from twofold.errors import Rejected, Unavailable
from twofold.synchronization.policy_rows import MAX_REJECTED
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.testing import FrozenWorld


def count_even(command: Count) -> Counted:
    if command.by % 2:
        raise Rejected("odd", f"{command.by} is odd")
    return Counted(command.counters, command.by)


def module(react: Any) -> Module:
    policies = [Policy("answers", react, key=CounterId)]
    return Module("notes", events=[Noted, Counted], decisions=[note, count_even], policies=policies)


async def both(event: Noted) -> list[Count]:
    return [Count(["x"], MARK + 2 * event.by + 1), Count(["x"], MARK + 2 * event.by)]


async def test_a_rejected_command_is_listed_with_its_event_and_reason_through_restarts(tmp_path: Path) -> None:
    async with app_in(tmp_path, module(both)) as app:
        for command in notes(1, 2):
            await app.send(command)
        await react_to(app)
        assert sorted(await answers(app)) == [MARK + 2, MARK + 4]
        listed = (await policy_of(app)).rejected
        assert [(each.command, each.position, each.code, each.message) for each in listed] == [
            ("count", position, "odd", f"{MARK + by} is odd") for position, by in ((2, 5), (1, 3))
        ]
    async with app_in(tmp_path, module(both)) as app:
        assert (await policy_of(app)).rejected == listed
        assert (await app.status()).health.level == "ready"


async def test_a_rejection_is_listed_once_though_the_process_dies_after_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dead(*_: Any, **__: Any) -> None:
        raise Unavailable("died before the checkpoint")

    async with app_in(tmp_path, module(both)) as app:
        await react_to(app)
        with monkeypatch.context() as patched:
            patched.setattr(PolicyStorage, "save", dead)
            await app.send(Note("a", 1))
            while await answers(app) != [MARK + 2]:
                await app.world.sleep(0)
            await app.stop()
    async with app_in(tmp_path, module(both)) as app:
        await react_to(app)
        assert [each.message for each in (await policy_of(app)).rejected] == [f"{MARK + 3} is odd"]


async def test_a_due_command_that_is_rejected_is_listed_and_not_sent_again(tmp_path: Path) -> None:
    async def later(event: Noted) -> Later:
        return Later(Count(["x"], MARK + event.by), timedelta(seconds=5))

    world = FrozenWorld()
    async with app_in(tmp_path, module(later), world=world, poll_seconds=900) as app:
        for command in notes(1, 2):
            await app.send(command)
        await passes(world, app, 6)
        assert await answers(app) == [MARK + 2]
        assert [(each.position, each.code) for each in (await policy_of(app)).rejected] == [(1, "odd")]
        running = app._running
        assert running is not None
        assert await running.write_store.rows("policy:answers") == {}


async def test_the_list_is_limited_to_the_last_ones(tmp_path: Path) -> None:
    async def odd(event: Noted) -> Count:
        return Count(["x"], MARK + 2 * event.by + 1)

    async with app_in(tmp_path, module(odd)) as app:
        for command in notes(*range(MAX_REJECTED + 10)):
            await app.send(command)
        await react_to(app)
        running = app._running
        assert running is not None
        (progress,) = (
            each for unit, each in (await running.synchronization.progress([])).items() if unit.kind == "policy"
        )
        assert len(progress.rejected) == MAX_REJECTED
        newest = (await policy_of(app)).rejected[0]
        assert newest.position == MAX_REJECTED + 10
