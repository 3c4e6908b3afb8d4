"""A policy answers the events of one key in order and each once, many keys at the same time, whatever fails."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Ignored, count, counters
from tests.synchronization.order_helpers import FaultyLog, Outside
from tests.synchronization.policy_helpers import (
    MARK,
    Note,
    Noted,
    Paid,
    Pay,
    answers,
    note,
    notes,
    parked_keys,
    policy_of,
    react_to,
    with_keys,
)
from twofold.app import App
from twofold.domain.envelope import Metadata
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.settings import Settings
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, RowWrite

KEYS = "abcd"


async def answered(app: App) -> dict[str, list[int]]:
    """The answers of each key in the order of the log."""
    found: dict[str, list[int]] = {key: [] for key in KEYS}
    for recorded in (await app.log(limit=10_000)).events:
        event = app.events.decode(recorded)
        if isinstance(event, Counted):
            found[event.counters[0]].append(event.by)
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("key", [CounterId, None], ids=["many keys", "one key"])
async def test_events_of_a_key_are_answered_once_and_in_order_through_failures_skips_and_crashes(
    seed: int, key: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    log, outside = FaultyLog(random), Outside(random)

    async def shared(*_: object, **__: object) -> MemoryWriteStore:
        return log

    monkeypatch.setattr("twofold.role_stores.open_write_store", shared)
    settings = Settings(
        poll_seconds=0.01,
        fold_retries=random.randrange(2),
        page_events=random.choice((2, 5, 100)),
        policy_breaker_keys=random.choice((0, 1, 2)),
    )
    sent: dict[str, list[int]] = {each: [] for each in KEYS}
    number = 0

    def process() -> App:
        module = with_keys(outside.answer, key=key)
        return App(module, write_store="memory:", read_store="memory:", settings=settings)

    async def burst(app: App) -> None:
        nonlocal number
        for _ in range(random.randrange(1, 12)):
            number += 1
            counter, kind = random.choice(KEYS), random.choice((Note, Pay))
            for _ in range(100):
                with suppress(Unavailable):
                    await app.send(kind(counter, number), command_id=f"note-{number}")
                    break
            sent[counter].append(number)
            for _ in range(random.randrange(20)):
                await asyncio.sleep(0)

    for _ in range(8):
        app = process()
        outside.share, outside.away = 0.0, ()
        await app.start()
        log.share, outside.share = random.choice((0.0, 0.1)), random.choice((0.0, 0.3))
        outside.away = random.choice(((), (), (Noted,), (Paid,), (Noted, Paid)))
        await burst(app)
        for _ in range(random.randrange(3)):
            for parked in await app.projections.parked("answers"):
                with suppress(TwofoldError):
                    if random.random() < 0.5:
                        await app.projections.retry("answers", parked.key)
                    else:
                        await app.projections.skip("answers", parked.key)
            for _ in range(random.randrange(200)):
                await asyncio.sleep(0)
        await burst(app)
        # The process dies in the middle of whatever it does: nothing more of it is written.
        log.dies_after = random.randrange(4)
        for _ in range(random.randrange(50)):
            await asyncio.sleep(0)
        with suppress(TwofoldError):
            await app.stop()
        log.share, log.dies_after = 0.0, None
    outside.share, outside.away = 0.0, ()
    async with process() as app:

        async def done() -> bool:
            status = await policy_of(app)
            return not (status.lag or status.parked_count)

        await until(done, "all is answered")

        async def forgotten() -> bool:
            return not await log.rows("answered:answers")

        await until(forgotten, "nothing is known any more of what the checkpoint has passed")
        found = await answered(app)
        # By the records: the answer to an operator may have been lost.
        actions = (await app.projections.actions("answers")).values()
        skips = [action.position for action in actions if action.what == "skip" and action.done]
        skipped = {await _number_at(app, position) for position in skips}
    for counter, numbers in sent.items():
        expected = [n + times * MARK for n in numbers for times in (1, 2)]
        maybe = {n + times * MARK for n in skipped for times in (1, 2)}
        in_order = [n for n in found[counter] if n not in maybe]
        assert in_order == [n for n in expected if n not in maybe]
        assert found[counter] == [n for n in expected if n in found[counter]], "in order, and each once"


async def _number_at(app: App, position: int) -> int:
    (recorded,) = (await app.log(after=position - 1, limit=1)).events
    number: int = app.events.decode(recorded).by
    return number


async def test_what_comes_behind_a_parked_event_of_the_same_key_waits_and_follows_in_order(tmp_path: Path) -> None:
    broken, seen = {1}, list[tuple[str, int]]()

    async def answer(event: Noted) -> None:
        if event.by in broken:
            raise ValueError("broken")
        seen.append((event.counter, event.by))

    async with app_in(tmp_path, with_keys(answer), fold_retries=1) as app:
        for counter, by in (("a", 1), ("b", 2), ("a", 3), ("a", 4)):
            await app.send(Note(counter, by))
        await react_to(app)
        (parked,) = (await policy_of(app)).parked
        assert (parked.key, parked.position, parked.waiting, parked.upto) == ("counter:a", 1, 2, 4)
        assert seen == [("b", 2)]
    async with app_in(tmp_path, with_keys(answer), fold_retries=0) as app:
        await app.send(Note("a", 5))
        await react_to(app)
        (parked,) = (await policy_of(app)).parked
        assert (parked.position, parked.waiting, parked.upto) == (1, 3, 5)
        broken.clear()
        action = await app.projections.retry("answers", "counter:a")
        assert action.outcome == "It is done. 3 later events of this key follow."
        await until(lambda: len(seen) == 5, "all follow")
        await app.send(Note("a", 6))
        await until(lambda: len(seen) == 6, "so does the next one")
        assert seen == [("b", 2), ("a", 1), ("a", 3), ("a", 4), ("a", 5), ("a", 6)]
        assert await parked_keys(app) == []


async def test_without_a_key_all_that_comes_behind_a_parked_event_waits_and_follows_in_order(tmp_path: Path) -> None:
    failing, seen = [True], list[int]()

    async def answer(event: Noted) -> None:
        if event.by == 1 and failing:
            raise RuntimeError("the directory does not know this account")
        seen.append(event.by)

    policy = with_keys(answer, key=None)
    async with app_in(tmp_path, policy, fold_retries=1) as app:
        for command in notes(1, 2, 3):
            await app.send(command)
        await react_to(app)
        assert [(p.key, p.position, p.waiting) for p in (await policy_of(app)).parked] == [("all", 1, 2)]
        assert seen == []
        failing.clear()
        await app.projections.retry("answers", "all")
        await until(lambda: seen == [1, 2, 3], "all follow")


async def test_an_event_that_waits_behind_a_parked_one_may_fail_too_and_parks_its_key_there(tmp_path: Path) -> None:
    broken, seen = {1, 3}, list[int]()

    async def answer(event: Noted) -> None:
        if event.by in broken:
            raise ValueError(f"{event.by} is broken")
        seen.append(event.by)

    async with app_in(tmp_path, with_keys(answer), fold_retries=1) as app:
        for by in (1, 2, 3, 4):
            await app.send(Note("a", by))
        await react_to(app)
        await app.projections.skip("answers", "counter:a")

        async def parked_at_3() -> bool:
            return [(p.position, p.waiting, p.error) for p in (await policy_of(app)).parked] == [
                (3, 1, "ValueError: 3 is broken")
            ]

        await until(parked_at_3, "parked at the next event that fails")
        assert seen == [2]
        await app.projections.skip("answers", "counter:a")
        await until(lambda: seen == [2, 4], "the last one follows")


async def test_without_a_key_a_policy_answers_strictly_in_the_order_of_the_log(tmp_path: Path) -> None:
    running, seen = list[int](), list[int]()

    async def answer(event: Noted) -> None:
        assert running == []
        running.append(event.by)
        await asyncio.sleep(0)
        seen.append(running.pop())

    async with app_in(tmp_path, with_keys(answer, key=None)) as app:
        await asyncio.gather(*(app.send(command) for command in notes(*range(50))))
        await react_to(app)
        order = [app.events.decode(recorded).by for recorded in (await app.log(limit=100)).events]
    assert seen == order


@pytest.mark.parametrize("most", [1, 3, 64])
async def test_so_many_keys_as_the_setting_says_are_answered_at_the_same_time_and_no_more(
    tmp_path: Path, most: int
) -> None:
    running, largest, go = set[int](), 0, asyncio.Event()

    async def answer(event: Noted) -> None:
        nonlocal largest
        running.add(event.by)
        largest = max(largest, len(running))
        await go.wait()
        running.discard(event.by)

    async with app_in(tmp_path, with_keys(answer), policy_concurrency=most) as app:
        await asyncio.gather(*(app.send(command) for command in notes(*range(100))))
        await until(lambda: len(running) == most, "as many as may run")
        go.set()
        await react_to(app)
    assert largest == most


async def test_one_slow_key_delays_no_other_and_no_more_events_are_held_than_a_page_says(tmp_path: Path) -> None:
    seen, go = list[int](), asyncio.Event()

    async def answer(event: Noted) -> Count:
        if event.by == 0:
            await go.wait()
        seen.append(event.by)
        return Count(["answers"], MARK + event.by)

    async with app_in(tmp_path, with_keys(answer), page_events=10) as app:
        for command in notes(*range(100)):
            await app.send(command)
        await until(lambda: len(seen) >= 9, "the others")
        running = app._running
        assert running is not None

        async def recorded() -> bool:
            rows = await running.write_store.rows("answered:answers")
            assert len(rows) <= 20
            return len(rows) == len(seen)

        await until(recorded, "what is beyond the checkpoint is stored")
        assert (await policy_of(app)).position == 0
        assert len(seen) < 20
        go.set()
        await react_to(app)
        assert sorted(seen) == list(range(100))
        assert sorted(await answers(app)) == [MARK + n for n in range(100)]
        assert await running.write_store.rows("answered:answers") == {}


async def test_commands_of_many_reactions_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    real = MemoryWriteStore.append

    async def append(self: MemoryWriteStore, batch: Sequence[Append]) -> list[Outcome]:
        batches.append(sum(each.command_id is not None and each.command_id.startswith("~") for each in batch))
        # A commit takes a while.
        await asyncio.sleep(0.01)
        return await real(self, batch)

    monkeypatch.setattr(MemoryWriteStore, "append", append)

    async def answer(event: Noted) -> Count:
        return Count([event.counter], MARK + event.by)

    app = App(with_keys(answer), write_store="memory:", read_store="memory:")
    async with app:
        await asyncio.gather(*(app.send(command) for command in notes(*range(200))))
        await react_to(app)
        assert len(await answers(app)) == 200
    assert sum(batches) == 200
    assert max(batches) >= 32


def test_a_key_that_an_event_does_not_carry_exactly_once_is_refused() -> None:
    async def many(event: Any) -> None: ...

    many.__annotations__["event"] = Counted
    with pytest.raises(WiringError, match="Counted does not carry it exactly once"):
        App(counters(policies=[Policy("answers", many, key=CounterId)]))
    with pytest.raises(WiringError, match="`key` takes a tag type"):
        App(Module("m", events=[Noted], decisions=[note], policies=[Policy("answers", _nothing, key=str)]))


async def _nothing(event: Noted) -> None:
    return None


async def test_rows_that_an_earlier_version_has_stored_are_read_and_the_policy_goes_on_where_it_was() -> None:
    """The checkpoint counts the commands of the next event that are sent, and one event is parked by its position."""
    log, seen = FaultyLog(Random(0)), list[int]()

    async def shared(*_: object, **__: object) -> MemoryWriteStore:
        return log

    async def answer(event: Noted) -> list[Count]:
        seen.append(event.by)
        return [Count([event.counter], MARK + event.by), Count([event.counter], 2 * MARK + event.by)]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("twofold.role_stores.open_write_store", shared)
        module = Module("notes", events=[Noted, Counted, Ended, Ignored], decisions=[note, count])
        async with App(module, write_store="memory:", read_store="memory:") as app:
            for command in notes(1, 2, 3, 4):
                await app.send(command)
        parked = b'{"parked":{"key":"parked:2","position":2,"error":"E","since":1,"waiting":0,"upto":0},"sent":1}'
        rows = (
            RowWrite("checkpoints", "policy:answers", b'{"position":2,"sent":1}', 0),
            RowWrite("parked:answers", "parked:2", parked, 0),
        )
        await log.append([Append(Metadata(1, "c", "c"), rows=rows)])
        async with App(with_keys(answer), write_store="memory:", read_store="memory:") as app:

            async def done() -> bool:
                return not (await policy_of(app)).lag and not await parked_keys(app)

            await until(done, "all is answered")
            assert sorted(seen) == [2, 3, 4]
            expected = [2 * MARK + 2, 2 * MARK + 3, MARK + 4, 2 * MARK + 4]
            assert sorted(await answers(app)) == sorted(expected), "what was sent before is not sent again"
