"""Load on a log from several nodes, and the check afterwards of what the log must then hold."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from twofold import AppendCondition, Conflict, EventQuery, Metadata, QueryItem, Unavailable
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import NewEvent, RecordedEvent
from twofold.write_store.port import Append, Appended, Outcome, Slice, WriteStore
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.reserving import append_reserved

DEPOSITED = "deposited"


@dataclass
class Load:
    """Deposits into few accounts. Each event says how many of its account its decision had seen.

    `acknowledged` holds every answer a caller got; what ended in Unavailable is sent again under the same id until it
    is answered, as a client would, or counted in `unanswered` when the load ends first.
    """

    seed: int = 0
    accounts: int = 8
    reserving: float = 0.0
    """The share of commands that are decided with the log reserved."""
    acknowledged: dict[str, Appended] = field(default_factory=dict)
    conflicts: int = 0
    sent_again: int = 0
    refusals: list[str] = field(default_factory=list)
    """Why commands were sent again."""
    unanswered: set[str] = field(default_factory=set)
    seen_live: list[int] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """All callers have ended: what they sent last may have been written after `ended`."""

    async def run(self, nodes: Sequence[WriteStore], callers: int) -> None:
        """Deposit from so many callers on each node until `ended` is set."""
        try:
            async with asyncio.TaskGroup() as group:
                for n, node in enumerate(nodes):
                    for caller in range(callers):
                        random = Random(f"{self.seed}/{n}/{caller}")
                        group.create_task(self._deposit(node, f"n{n}-c{caller}", random))
        finally:
            self.answered.set()

    async def more(self, commands: int) -> None:
        """Wait until so many more commands have been acknowledged."""
        wanted = len(self.acknowledged) + commands
        while len(self.acknowledged) < wanted:
            self.moved.clear()
            await self.moved.wait()

    async def follow(self, url: str) -> None:
        """Read along on a connection of its own, and note each position as it comes, until all callers have ended."""
        store = await PostgresWriteStore.open(url, read_only=True, patience=60.0)
        position = 0
        while True:
            over = self.answered.is_set()
            try:
                page = await store.read(ALL_EVENTS, position, 500)
            except Unavailable:
                continue
            self.seen_live += [event.position for event in page.events]
            position = page.upto
            if over and not page.events:
                break
            await store.wait(position, 0.1)
        await store.close()

    async def _deposit(self, node: WriteStore, caller: str, random: Random) -> None:
        turn = 0
        while not self.ended.is_set():
            turn += 1
            account, reserve = f"account:{random.randrange(self.accounts)}", random.random() < self.reserving
            await self._command(node, f"{caller}-{turn}", account, reserve)

    async def _command(self, node: WriteStore, command_id: str, account: str, reserve: bool) -> None:
        query = _query(account)
        self.unanswered.add(command_id)
        while True:
            try:
                found = await node.read(query)
                (outcome,) = await (_append_reserved if reserve else _append_at_once)(node, command_id, account, found)
            except Unavailable as error:
                if self.ended.is_set():
                    return
                self.sent_again += 1
                self.refusals.append(str(error))
                continue
            if isinstance(outcome, Conflict):
                self.conflicts += 1
                continue
            self.unanswered.discard(command_id)
            assert isinstance(outcome, Appended), outcome
            self.acknowledged[command_id] = outcome
            self.moved.set()
            return

    def check(self, events: Sequence[RecordedEvent], head: int) -> None:
        """AssertionError unless nothing acknowledged is lost, nothing doubled, nothing decided on another past."""
        assert [event.position for event in events] == list(range(1, head + 1)), "a gap in the log"
        times = Counter(event.metadata.command_id for event in events)
        assert [each for each, count in times.items() if count > 1] == [], "a command took effect twice"
        by_command = {event.metadata.command_id: event.position for event in events}
        lost = [each for each, outcome in self.acknowledged.items() if by_command.get(each) != outcome.position]
        assert lost == [], "an acknowledged command is not where its caller was reported"
        unasked = by_command.keys() - self.acknowledged.keys() - self.unanswered
        assert unasked == set(), "the log holds what nobody sent"
        before: dict[str, int] = defaultdict(int)
        for event in events:
            (account,) = event.tags
            assert json.loads(event.payload)["seen"] == before[account], f"{event.position} was decided on another past"
            before[account] += 1


async def check_log(url: str, load: Load, *, followed: bool = True) -> int:
    """How many events the log holds, once everything about them has been found right."""
    store = await PostgresWriteStore.open(url, read_only=True)
    found = await store.read(ALL_EVENTS)
    await store.close()
    load.check(found.events, found.head)
    if followed:
        assert load.seen_live == list(range(1, found.head + 1)), "a live reader saw something else than 1…n in order"
    return found.head


def outcome_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a batch of one."""
    (outcome,) = outcomes
    return outcome


async def _append_at_once(node: WriteStore, command_id: str, account: str, found: Slice) -> list[Outcome]:
    return await node.append([_append(command_id, account, len(found.events), found.upto)])


async def _append_reserved(node: WriteStore, command_id: str, account: str, found: Slice) -> list[Outcome]:
    async def decide(page: Slice | None) -> list[Append]:
        assert page is not None
        return [_append(command_id, account, len(found.events) + len(page.events), page.upto)]

    return await append_reserved(node, [AppendCondition(_query(account), found.upto)], decide)


def _query(account: str) -> EventQuery:
    return EventQuery((QueryItem((DEPOSITED,), (account,)),))


def _append(command_id: str, account: str, seen: int, upto: int) -> Append:
    event = NewEvent(f"{command_id}.0", DEPOSITED, 1, (account,), json.dumps({"seen": seen}).encode())
    conditions = (AppendCondition(_query(account), upto),)
    return Append(Metadata(0, command_id, command_id), (event,), conditions, command_id, b"deposit")
