"""One trace leads from a command to the rows, and to the commands of policies; what is not sampled stores nothing."""

import asyncio
from datetime import datetime, timedelta

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import StatusCode

from tests.sample_domains import bank
from tests.sample_domains.bank import BalanceOf, Deposit, Withdraw
from tests.sample_domains.counter_app_helpers import until
from tests.telemetry.span_helpers import ALL, NONE, attributes, identity, parent, send, trace_of, traced
from tests.telemetry.traced_bank import BALANCES, GIVER
from twofold import App, FunctionFailed, Metadata, Rejected
from twofold.domain.envelope import StoredEnvelope, encode_head, may_be_traced
from twofold.domain.events import RecordedEvent
from twofold.world import RealWorld

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def stored(app: App) -> list[RecordedEvent]:
    return (await app.log()).events


def head_of(event: RecordedEvent) -> bytes:
    return event.stored_envelope.head


async def test_one_trace_holds_the_command_the_append_the_page_the_reaction_and_its_command() -> None:
    async with traced() as (app, traces):
        await send(app, Deposit("ann", 100), command_id="first")
        await until(lambda: has_balance(app, "gifts"), "the row of the answer")
        first, second = await stored(app)
    commands = {attributes(span)["twofold.command_id"]: span for span in traces.all("command deposit")}
    command, answer = commands["first"], commands[second.metadata.command_id]
    reaction = next(span for span in traces.all(f"process {GIVER}") if parent(span) == identity(command))
    page = next(span for span in traces.all(f"process {BALANCES}") if attributes(span)["twofold.position"] == 1)
    own = [span for span in traces.spans if not span.name.startswith("query")]
    assert {trace_of(span) for span in own} == {trace_of(command)}
    assert parent(command) is None
    assert {name for name in traces.names if name.startswith(("decide", "append"))} == {"decide deposit", "append"}
    assert {parent(span) for span in traces.all("append")} == {identity(command), identity(answer)}
    assert parent(answer) == identity(reaction)
    assert [link.context.span_id for link in page.links] == [identity(command)]
    assert f"{trace_of(command):032x}" in (first.traceparent or "") and first.traceparent != second.traceparent
    ids = attributes(answer)["twofold.correlation_id"], attributes(reaction)["messaging.message.conversation_id"]
    assert set(ids) == {first.metadata.correlation_id} == {"first"}
    assert attributes(reaction)["messaging.message.id"] == first.id == second.metadata.causation_id


async def has_balance(app: App, account: str) -> bool:
    return bool((await app.ask(BalanceOf(account))).value)


async def test_a_command_that_is_due_later_stays_in_the_trace() -> None:
    async with traced() as (app, traces):
        await send(app, Deposit("bob", 100))
        await until(lambda: has_balance(app, "gifts"), "the due command")
        events = await stored(app)
    assert len(events) == 2
    assert len({trace_of(span) for span in traces.all("command deposit")}) == 1
    assert {(event.traceparent or "")[:35] for event in events} == {f"00-{trace_of(traces.spans[0]):032x}"}


async def test_what_is_not_sampled_stores_not_one_byte_more() -> None:
    async def head(root: Sampler) -> bytes:
        async with traced(root) as (app, traces):
            await app.send(Deposit("ann", 100), command_id="first")
            assert bool(traces.spans) == (root is ALL)
            return head_of((await stored(app))[0])

    unsampled, sampled = await head(NONE), await head(ALL)
    command_id, time, index = msgspec.json.decode(unsampled)
    assert unsampled == encode_head("first.0", Metadata(time, "first", "first")) and (command_id, index) == ("first", 0)
    assert len(sampled) - len(unsampled) <= 80


def test_a_head_without_a_trace_is_what_it_was_before_and_old_code_reads_one_with_it() -> None:
    class OldHead(msgspec.Struct, array_like=True):
        command_id: str
        time: int
        id: int | str
        correlation_id: str | None = None
        causation_id: str | None = None
        actor: str | None = None
        depth: int = 0

    plain = Metadata(5, "c", "c")
    assert encode_head("c.0", plain) == b'["c",5,0]'
    sampled = encode_head("c.0", msgspec.structs.replace(plain, actor="ann", traceparent=PARENT))
    assert msgspec.json.decode(sampled, type=OldHead) == OldHead("c", 5, 0, None, None, "ann", 0)
    assert [may_be_traced(StoredEnvelope(head, b"[]")) for head in (sampled, b'["c",5,0]')] == [True, False]


async def test_an_id_that_ends_as_a_trace_does_is_no_trace() -> None:
    head = encode_head("odd-01", Metadata(5, "c", "c"))
    assert may_be_traced(StoredEnvelope(head, b"[]"))
    assert RecordedEvent(1, "t", 1, b"{}", StoredEnvelope(head, b"[]")).traceparent is None


async def test_each_command_of_a_batch_has_its_own_append() -> None:
    async with traced() as (app, traces):
        await asyncio.gather(*(app.send(Deposit(f"a{n}", 1)) for n in range(5)))
    appends, commands = traces.all("append"), traces.all("command deposit")
    assert sorted(str(parent(span)) for span in appends) == sorted(str(identity(span)) for span in commands)
    assert max(attributes(span)["db.operation.batch.size"] for span in appends) > 1
    assert {attributes(span)["twofold.position"] for span in appends} == {1, 2, 3, 4, 5}


async def test_a_page_has_one_span_with_a_link_to_each_sampled_command(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced() as (app, traces):
        running = app._running
        assert running is not None
        for worker in running.synchronization.workers:
            monkeypatch.setattr(worker, "_held", lambda: False)
        await asyncio.gather(*(app.send(Deposit(f"a{n}", 1)) for n in range(5)))
        monkeypatch.undo()
        await send(app, Deposit("last", 1))
    pages = traces.all(f"process {BALANCES}")
    commands = [identity(span) for span in traces.all("command deposit")]
    assert sorted(link.context.span_id for page in pages for link in page.links) == sorted(commands)
    assert len(pages) < len(commands)
    assert all(parent(page) in commands for page in pages)


class LateWorld(RealWorld):
    """The real world, `late` ahead."""

    late = timedelta()

    def now(self) -> datetime:
        return super().now() + self.late


async def test_pages_of_old_events_have_no_spans() -> None:
    world = LateWorld()
    async with traced(world=world) as (app, traces):
        await send(app, Deposit("cat", 1))
        assert traces.one(f"process {BALANCES}")
        running = app._running
        assert running is not None
        page = await app.log()
        (unit,) = [unit for unit in running.synchronization.supervisor.workers if unit.name == BALANCES]
        with app.telemetry.page(unit, page):
            assert trace.get_current_span().is_recording()
        world.late = timedelta(hours=2)
        with app.telemetry.page(unit, page):
            assert not trace.get_current_span().is_recording()


async def test_a_rejection_is_no_error_of_the_span() -> None:
    async with traced() as (app, traces):
        with pytest.raises(Rejected):
            await app.send(Withdraw("poor", 1))
    command = traces.one("command withdraw")
    assert command.status.status_code is StatusCode.UNSET
    assert attributes(command)["twofold.rejection"] and "append" not in traces.names


async def test_the_error_of_a_query_is_named_and_its_text_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced() as (app, traces):

        async def fails(*_: object) -> None:
            raise ValueError("the secret of ann")

        function = app.queries.by_name["balance-of"]
        monkeypatch.setitem(app.queries._by_type, BalanceOf, function._replace(function=fails))
        with pytest.raises(FunctionFailed):
            await app.ask(BalanceOf("ann"))
    query = traces.one("query balance-of")
    assert query.status.status_code is StatusCode.ERROR
    assert attributes(query)["error.type"] == "FunctionFailed"
    assert "secret" not in query.to_json()


async def test_a_reaction_that_fails_has_a_span_with_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced() as (app, traces):
        running = app._running
        assert running is not None

        async def fails(*_: object) -> None:
            raise LookupError("nobody")

        (unit,) = [unit for unit in running.synchronization.supervisor.workers if unit.name == GIVER]
        follower = running.synchronization.supervisor.workers[unit].follower
        monkeypatch.setattr(follower._reaction, "_react", fails)  # type: ignore[attr-defined]
        await app.send(Deposit("ann", 1))
        await until(lambda: is_seen(f"process {GIVER}", traces.names), "the reaction")
        failed = traces.all(f"process {GIVER}")[0]
    assert (failed.status.status_code, attributes(failed)["error.type"]) == (StatusCode.ERROR, "LookupError")


async def is_seen(name: str, names: list[str]) -> bool:
    return name in names


async def test_an_app_of_a_program_without_opentelemetry_is_not_traced() -> None:
    async with App(bank.followed_bank(), write_store="memory:", read_store="memory:") as app:
        assert app.telemetry.tracing is None
        await app.send(Deposit("ann", 1))
        assert [event.traceparent for event in await stored(app)] == [None]
