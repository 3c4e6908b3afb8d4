"""The contract of a write store. To prove an adapter, subclass `WriteStoreContract` and open stores in `opened`."""

import asyncio

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS, AppendCondition, EventQuery
from twofold.errors import CommandIdReused, Conflict
from twofold.testing.race import PRIZES, race
from twofold.testing.write_store_model import (
    HISTORIES,
    IN_TURN_HISTORIES,
    METADATA,
    QUERIES,
    TAGS,
    LogModel,
    append,
    event,
    everything,
    kinds,
    put,
    query,
)
from twofold.testing.write_store_turns import TurnsContract
from twofold.write_store.chain import chain_after, chain_start
from twofold.write_store.port import PAGE_BYTES, Append, Appended, LogRow, Outcome, RowWrite, Slice, WriteStore

PATIENCE = 10.0
"""Seconds to wait for what should happen at once."""

ODD_TAGS = ("a:b:c", "q:'", 'q:"', "q:%", "q:_", "q:\\", "q:🦊", "q:ßß é", "q:;--", "q:" + "x" * 256, "q: ", "q:[*?]")


class WriteStoreContract(TurnsContract):
    """What every write store promises. Subclass it; `opened` opens a new store."""

    rounds = 200
    """Rounds of each race."""

    # Positions and slices

    async def test_positions_count_up_from_one_without_a_gap(self) -> None:
        async with self.opened() as store:
            assert await store.read(ALL_EVENTS) == Slice([], 0, 0, chain_start(store.identity.log))
            assert await put(store, event("a"), event("b")) == Appended(2, 2)
            assert await put(store, event("c")) == Appended(3, 1)
            assert [(e.position, e.type) for e in await everything(store)] == [(1, "a"), (2, "b"), (3, "c")]

    async def test_a_refused_append_leaves_no_gap(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"))
            refused = append(event("b"), event("b"), conditions=[AppendCondition(ALL_EVENTS, 0)])
            assert kinds(await store.append([refused, append(event("c")), refused])) == ["Conflict", 2, "Conflict"]
            assert await put(store, event("d")) == Appended(3, 1)
            assert [e.type for e in await everything(store)] == ["a", "c", "d"]

    async def test_a_slice_without_limit_reaches_the_head(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"), event("b"), event("a"), event("b"))
            page = await store.read(query((["a"], [])), after=1)
            assert ([e.position for e in page.events], page.upto, page.head) == ([3], 4, 4)
            last = page.chain
            assert await store.read(ALL_EVENTS, after=4) == Slice([], 4, 4, last)
            assert await store.read(NO_EVENTS) == Slice([], 4, 4, last)

    async def test_each_event_is_linked_to_those_before_it(self) -> None:
        async with self.opened() as store:
            written = append(event("a", payload=b'{"n":1}'), event("b"), command_id="c-1")
            (first,) = await store.append([written])
            assert isinstance(first, Appended)
            chain = chain_start(store.identity.log)
            for recorded in await everything(store):
                chain = chain_after(chain, recorded)
                assert recorded.chain == chain
            assert first.chain == chain
            assert (await store.read(ALL_EVENTS, limit=1)).chain != chain
            await put(store, event("c"))
            (repeated,) = await store.append([written])
            assert isinstance(repeated, Appended)
            assert (repeated.repeated, repeated.chain) == (True, chain)
            _, remembered = await store.newer([], "c-1")
            assert remembered is not None
            assert remembered.chain == chain
            nothing = await put(store)
            assert isinstance(nothing, Appended)
            assert nothing.chain == (await store.read(NO_EVENTS)).chain

    async def test_a_refused_append_leaves_the_chain_whole(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"))
            refused = append(event("b"), event("b"), conditions=[AppendCondition(ALL_EVENTS, 0)])
            _, second, _, fourth = await store.append(
                [refused, append(event("c"), event("d")), refused, append(event("e"))]
            )
            events = await everything(store)
            chain = chain_start(store.identity.log)
            for recorded in events:
                chain = chain_after(chain, recorded)
                assert recorded.chain == chain
            assert isinstance(second, Appended)
            assert isinstance(fourth, Appended)
            assert (second.chain, fourth.chain) == (events[2].chain, events[3].chain)

    async def test_a_limit_cuts_the_slice_at_the_last_event_it_returns(self) -> None:
        async with self.opened() as store:
            await put(store, *[event("ab"[i % 2]) for i in range(10)])
            page = await store.read(query((["a"], [])), limit=2)
            assert ([e.position for e in page.events], page.upto, page.head) == ([1, 3], 3, 10)
            rest = await store.read(query((["a"], [])), after=page.upto, limit=99)
            assert ([e.position for e in rest.events], rest.upto, rest.head) == ([5, 7, 9], 10, 10)

    async def test_paging_by_upto_misses_nothing_and_repeats_nothing(self) -> None:
        async with self.opened() as store:
            await put(store, *[event("abc"[i % 3], tags=[f"n:{i % 2}"]) for i in range(60)])
            selected = query((["a"], []), (["b"], ["n:1"]))
            seen: list[int] = []
            after = 0
            while True:
                page = await store.read(selected, after, limit=7)
                assert len(page.events) <= 7
                seen.extend(e.position for e in page.events)
                after = page.upto
                if page.upto == page.head:
                    break
            assert seen == [e.position for e in (await store.read(selected)).events]
            assert len(seen) == 30

    @pytest.mark.parametrize(
        "selected",
        [ALL_EVENTS, query((["a"], [])), query(([], ["n:0"])), query((["a"], ["n:0"])), query(([], ["m:0", "n:0"]))],
        ids=["all", "a type", "a tag", "a type and a tag", "two tags"],
    )
    async def test_a_page_ends_with_the_event_that_brings_it_to_its_size(self, selected: EventQuery) -> None:
        async with self.opened() as store:
            payload = b'"%s"' % (b"x" * 10_000)
            small = [event("b")] * 3
            await put(store, *small, *[event("a", tags=["m:0", "n:0"], payload=payload)] * 9, *small)
            seen: list[int] = []
            after, pages = 0, 0
            while True:
                page = await store.read(selected, after, size=25_000)
                assert sum(len(e.payload) for e in page.events if e.type == "a") <= 30_006
                seen.extend(e.position for e in page.events)
                after, pages = page.upto, pages + 1
                if page.upto == page.head:
                    break
                assert page.upto == page.events[-1].position
            assert seen == [e.position for e in (await store.read(selected)).events]
            assert 3 <= pages <= 5

    async def test_a_page_has_at_least_one_event_however_large(self) -> None:
        async with self.opened() as store:
            await put(store, *[event("a", payload=b'"%s"' % (b"x" * (PAGE_BYTES + 1)))] * 2)
            for page in (await store.read(ALL_EVENTS), (await store.newer([AppendCondition(ALL_EVENTS, 0)]))[0]):
                assert ([e.position for e in page.events], page.upto, page.head) == ([1], 1, 2)
            page = await store.read(ALL_EVENTS, 1, limit=5, size=1)
            assert ([e.position for e in page.events], page.head) == ([2], 2)

    async def test_a_thousand_appends_fit_in_one_batch(self) -> None:
        async with self.opened() as store:
            batch = [append(event("a", tags=[f"n:{n}"]), command_id=f"c-{n}") for n in range(1_000)]
            assert await store.append(batch) == [Appended(n + 1, 1) for n in range(1_000)]
            assert [e.tags for e in await everything(store)] == [(f"n:{n}",) for n in range(1_000)]

    # What is kept

    @pytest.mark.parametrize("payload", [b"{}", '{"a":"ÄÖ 🦊 \u2028 日本"}'.encode(), b"\x00\xff\xfe not json", b""])
    async def test_a_payload_comes_back_byte_for_byte(self, payload: bytes) -> None:
        async with self.opened() as store:
            await put(store, event("a", payload=payload, version=7))
            (stored,) = await everything(store)
            assert (stored.payload, stored.version) == (payload, 7)

    async def test_a_payload_of_a_mebibyte_comes_back(self) -> None:
        async with self.opened() as store:
            payload = bytes(range(256)) * 4096
            await put(store, event("a", payload=payload))
            assert [e.payload for e in await everything(store)] == [payload]

    @pytest.mark.parametrize(
        "metadata",
        [METADATA, Metadata(0, "c", "c"), Metadata(2**52, "ç'\"%", "🦊", "e:1.0", "Ann; drop table events --")],
    )
    async def test_metadata_comes_back_as_it_was_given(self, metadata: Metadata) -> None:
        async with self.opened() as store:
            await store.append([Append(metadata, (event("a", id="c-1.0"),))])
            (stored,) = await everything(store)
            assert (stored.metadata, stored.id) == (metadata, "c-1.0")

    async def test_two_hundred_tags_find_their_event_one_by_one_and_all_at_once(self) -> None:
        async with self.opened() as store:
            tags = sorted(f"item:{n}" for n in range(200))
            await put(store, event("a", tags=tags), event("a", tags=tags[1:]))
            assert [e.position for e in (await store.read(query(([], tags)))).events] == [1]
            assert [e.position for e in (await store.read(query(([], tags[-1:])))).events] == [1, 2]
            (first, _) = await everything(store)
            assert first.tags == tuple(tags)

    @pytest.mark.parametrize("tag", ODD_TAGS)
    async def test_a_tag_is_found_by_exactly_its_letters(self, tag: str) -> None:
        async with self.opened() as store:
            await put(store, *[event("a", tags=[odd]) for odd in (*ODD_TAGS, tag.upper() + "x", tag[:-1])])
            events = (await store.read(query((["a"], [tag])))).events
            assert [e.tags for e in events] == [(tag,)]

    # Conditions

    async def test_a_condition_is_checked_after_its_position_only(self) -> None:
        async with self.opened() as store:
            await put(store, event("a", tags=TAGS[:1]), event("b"))
            selected = query((["a"], TAGS[:1]))
            assert await put(store, event("c"), conditions=[AppendCondition(selected, 1)]) == Appended(3, 1)
            refused = await put(store, event("c"), conditions=[AppendCondition(selected, 0)])
            assert isinstance(refused, Conflict)

    async def test_any_of_several_conditions_refuses(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"), event("b"))
            late, early = AppendCondition(query((["a"], [])), 1), AppendCondition(query((["b"], [])), 1)
            assert isinstance(await put(store, event("c"), conditions=[late, early]), Conflict)
            assert await put(store, event("c"), conditions=[late, late]) == Appended(3, 1)

    async def test_an_append_sees_those_before_it_in_its_batch(self) -> None:
        async with self.opened() as store:
            guarded = append(event("a", tags=TAGS[:1]), conditions=[AppendCondition(query((["a"], TAGS[:1])), 0)])
            other = append(event("a", tags=TAGS[1:2]), conditions=[AppendCondition(query((["a"], TAGS[1:2])), 0)])
            assert kinds(await store.append([guarded, guarded, other])) == [1, "Conflict", 2]

    @pytest.mark.parametrize("prize", PRIZES)
    @pytest.mark.parametrize("in_one_batch", [False, True], ids=["at once", "in one batch"])
    async def test_of_many_racers_to_one_boundary_one_wins_each_round(self, prize: str, in_one_batch: bool) -> None:
        async with self.opened() as store:
            await race(store, PRIZES[prize], racers=64, rounds=self.rounds, in_one_batch=in_one_batch)

    # Command ids

    async def test_a_repeated_command_id_answers_the_first_outcome_and_writes_nothing(self) -> None:
        async with self.opened() as store:
            one = append(event("a"), event("a"), command_id="c-1", rows=[RowWrite("s", "k", b"1", 0)])
            assert await store.append([one, one]) == [Appended(2, 2), Appended(2, 2, repeated=True)]
            await put(store, event("b"))
            assert await store.append([one]) == [Appended(2, 2, repeated=True)]
            assert len(await everything(store)) == 3
            assert await store.rows("s") == {"k": LogRow(b"1", 1)}

    async def test_a_repeat_is_known_even_where_its_conditions_would_now_conflict(self) -> None:
        async with self.opened() as store:
            one = append(event("a"), command_id="c-1", conditions=[AppendCondition(query((["a"], [])), 0)])
            assert await store.append([one]) == [Appended(1, 1)]
            assert await store.append([one]) == [Appended(1, 1, repeated=True)]

    async def test_a_command_id_stands_for_one_request(self) -> None:
        async with self.opened() as store:
            one = append(event("a"), command_id="c-1")
            other = msgspec.structs.replace(one, request_hash=b"another")
            assert kinds(await store.append([one, other])) == [1, "CommandIdReused"]
            assert kinds(await store.append([other])) == ["CommandIdReused"]
            assert len(await everything(store)) == 1

    async def test_a_command_without_events_is_remembered_at_the_head(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"), event("b"))
            empty = append(command_id="c-1")
            assert await store.append([empty]) == [Appended(2, 0)]
            await put(store, event("c"))
            assert await store.append([empty]) == [Appended(2, 0, repeated=True)]

    async def test_a_refused_append_does_not_burn_its_command_id(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"))
            refused = append(event("b"), command_id="c-1", conditions=[AppendCondition(ALL_EVENTS, 0)])
            accepted = append(event("b"), command_id="c-1", conditions=[AppendCondition(ALL_EVENTS, 1)])
            assert kinds(await store.append([refused, accepted])) == ["Conflict", 2]

    async def test_appends_without_a_command_id_are_never_repeats(self) -> None:
        async with self.opened() as store:
            assert await store.append([append(event("a")), append(event("a"))]) == [Appended(1, 1), Appended(2, 1)]

    async def test_newer_returns_events_and_outcome_of_one_moment(self) -> None:
        async with self.opened() as store:
            await store.append([append(event("a"), command_id="c-1"), append(event("b"))])
            both = [AppendCondition(query((["a"], [])), 1), AppendCondition(query((["b"], [])), 0)]
            page, outcome = await store.newer(both, "c-1")
            assert ([e.position for e in page.events], page.upto, page.head) == ([2], 2, 2)
            assert outcome == Appended(1, 1)
            assert (await store.newer(both, "c-2"))[1] is None
            assert (await store.newer(both))[1] is None
            assert await store.newer([]) == (Slice([], 2, 2, page.chain), None)

    # Waiting and closing

    async def test_a_wait_ends_with_news_and_not_before(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"))
            waiting = asyncio.create_task(store.wait(1, PATIENCE * 10))
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            assert not done, "nothing was new"
            await put(store, event("b"))
            await asyncio.wait_for(waiting, PATIENCE)

    async def test_a_wait_for_what_is_there_already_ends_at_once(self) -> None:
        async with self.opened() as store:
            await put(store, event("a"), event("b"))
            await asyncio.wait_for(store.wait(1, PATIENCE * 10), PATIENCE)

    async def test_a_wait_without_news_ends_after_its_timeout(self) -> None:
        async with self.opened() as store:
            clock = asyncio.get_running_loop().time
            started = clock()
            await asyncio.wait_for(store.wait(0, 0.05), PATIENCE)
            assert clock() - started >= 0.04

    async def test_a_wait_that_is_cancelled_as_news_comes_is_cancelled(self) -> None:
        async with self.opened() as store:
            for turns in range(6):
                waiting = asyncio.create_task(store.wait(turns, PATIENCE * 10))
                await asyncio.wait([waiting], timeout=0)
                await put(store, event("a"))
                for _ in range(turns):
                    await asyncio.wait([waiting], timeout=0)
                ended = not waiting.cancel()
                await asyncio.wait([waiting])
                assert waiting.cancelled() is not ended, f"after {turns} turns"

    async def test_closing_lets_appends_under_way_finish(self) -> None:
        async with self.opened() as store:
            under_way = [asyncio.create_task(store.append([append(event("a"))])) for _ in range(8)]
            await asyncio.wait(under_way[:1], timeout=0)
            await store.close()
            outcomes = [outcome for task in under_way for outcome in await asyncio.wait_for(task, PATIENCE)]
            assert sorted(o.position for o in outcomes if isinstance(o, Appended)) == list(range(1, 9))

    # Any history

    @settings(
        max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(history=HISTORIES, selected=QUERIES)
    def test_any_history_comes_out_as_in_a_plain_list(self, history: list[list[Append]], selected: EventQuery) -> None:
        asyncio.run(self._relive(history, selected))

    @settings(
        max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(history=IN_TURN_HISTORIES, selected=QUERIES)
    def test_any_history_of_appends_in_turn_comes_out_as_in_a_plain_list(
        self, history: list[list[Append]], selected: EventQuery
    ) -> None:
        asyncio.run(self._relive(history, selected))

    async def _relive(self, history: list[list[Append]], selected: EventQuery) -> None:
        model = LogModel()
        async with self.opened() as store:
            for batch in history:
                assert [as_tuple(outcome) for outcome in await store.append(batch)] == model.batch(batch)
            for space in ("checkpoints", "timers", "never"):
                rows = {key: (row.value, row.version) for key, row in (await store.rows(space)).items()}
                assert rows == model.rows.get(space, {})
            for after in range(model.head + 2):
                await self._agrees(store, model, selected, after)
                page, outcome = await store.newer(
                    [AppendCondition(selected, after), AppendCondition(ALL_EVENTS, after + 1)], "c-1"
                )
                both = [AppendCondition(selected, after), AppendCondition(ALL_EVENTS, after + 1)]
                assert [e.position for e in page.events] == [entry.position for entry in model.matching(both)]
                known = model.commands.get("c-1")
                assert (outcome and (outcome.position, outcome.count)) == (known and known[1:])

    async def _agrees(self, store: WriteStore, model: LogModel, selected: EventQuery, after: int) -> None:
        expected = model.matching([AppendCondition(selected, after)])
        for limit in (None, 1, 2, len(expected) or 1):
            page = await store.read(selected, after, limit)
            events = expected[:limit]
            assert [(e.position, e.type, e.tags, e.payload) for e in page.events] == [
                (entry.position, entry.event.type, entry.event.tags, entry.event.payload) for entry in events
            ]
            assert page.head == model.head
            # A page that reached its limit ends at its last event, or at the head where no later event matches.
            reaches = {page.head} if len(events) == len(expected) else {events[-1].position}
            reaches |= {events[-1].position} if limit == len(events) else set()
            assert page.upto in reaches


def as_tuple(outcome: Outcome) -> tuple[object, ...]:
    """An outcome in the form of the model."""
    if isinstance(outcome, Appended):
        return ("appended", outcome.position, outcome.count, outcome.repeated)
    return ("reused",) if isinstance(outcome, CommandIdReused) else ("conflict",)
