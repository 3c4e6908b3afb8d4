"""The rows of a log in PostgreSQL as they are stored, to be checked for damage."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twofold.domain.envelope import StoredEnvelope
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.write_store.chain import chain_start
from twofold.write_store.postgres.functions import Function, ResultRow
from twofold.write_store.verification import (
    CommandRow,
    Damage,
    HeadRow,
    LogUnreadable,
    RawEvent,
    TagEntry,
    damages,
    head_damages,
    stored_tags,
)

HEAD = Function("raw_head", (), ("bigint", "bytea", "int", "bytea", "bigint", "int", "text"))
EVENTS = Function(
    "raw_events", ("bigint", "bigint"), ("bigint", "int", "text", "int", "bytea", "bytea", "bytea", "bytea")
)
UNINDEXED = Function("raw_unindexed", ("text[]", "int[]", "bigint[]"), ("int",))
INDEX = Function("raw_index", ("text", "int", "bigint", "bigint"), ("text", "int", "bigint", "int", "bytea"))
COMMANDS = Function(
    "raw_commands",
    ("text", "bigint"),
    ("text", "bigint", "int", "bytea", "bytea", "bytea", "bigint", "bigint", "bigint"),
)
REMEMBERED = Function("raw_remembered", ("text[]",), ("text", "bigint", "int", "bigint"))
CHAINS = Function("raw_chains", ("bigint[]",), ("bigint", "bytea"))

_TAIL = 1_000
_CORRUPT = "XX"
_NUL = "\0"
"""A character that text of PostgreSQL cannot hold, so no entry of the index has it."""


class PostgresRawLog:
    """The rows of a log, each page in one call of a SQL function. `call` calls one."""

    def __init__(self, call: Callable[..., Awaitable[Sequence[ResultRow]]]) -> None:
        self._call_function = call

    async def head(self) -> HeadRow:
        for row in await self._call(HEAD):
            return HeadRow(*row)
        raise LogUnreadable("the row of the table log_head is missing")

    async def events(self, after: Position, limit: int) -> Sequence[RawEvent]:
        found: list[tuple[int, RawEvent]] = [
            (type_id, RawEvent(position, type, version, payload, StoredEnvelope(envelope, tags), chain))
            for position, type_id, type, version, payload, envelope, tags, chain in await self._call(
                EVENTS, after, limit
            )
        ]
        # In a later snapshot than the events: tags are only added, so what was read of them must be there.
        wanted: list[tuple[str, int, int]] = [
            (tag, type_id, number)
            for number, (type_id, raw) in enumerate(found)
            for tag in stored_tags(raw.stored.tags) or list[str]()
        ]
        missing: dict[int, list[str]] = {}
        asked: list[tuple[str, int, int]] = [entry for entry in wanted if _NUL not in entry[0]]
        for tag, _, number in wanted:
            if _NUL in tag:
                missing.setdefault(number, []).append(tag)
        positions = [found[number][1].position for _, _, number in asked]
        lacking = await self._call(UNINDEXED, [entry[0] for entry in asked], [entry[1] for entry in asked], positions)
        for row in lacking:
            asked_at: int = row[0]
            entry = asked[asked_at - 1]
            missing.setdefault(entry[2], []).append(entry[0])
        return [raw._replace(unindexed=missing.get(number, ())) for number, (_, raw) in enumerate(found)]

    async def index(self, after: TagEntry | None, limit: int) -> Sequence[TagEntry]:
        start = ("", 0, 0) if after is None else after[:3]
        return [TagEntry(*row) for row in await self._call(INDEX, *start, limit)]

    async def commands(self, after: str, limit: int) -> Sequence[CommandRow]:
        return [CommandRow(*row) for row in await self._call(COMMANDS, after, limit)]

    async def remembered(self, command_ids: Sequence[str]) -> Mapping[str, tuple[Position, int]]:
        known = [command_id for command_id in command_ids if _NUL not in command_id]
        return {row[0]: (row[1], row[2]) for row in await self._call(REMEMBERED, known)}

    async def storage(self) -> Sequence[str]:
        return ()

    async def chains(self, positions: Sequence[Position]) -> Mapping[Position, bytes]:
        """The chains that are stored at these positions."""
        return dict(tuple(row) for row in await self._call(CHAINS, list(positions))) if positions else {}

    async def tail_damages(self, log: str) -> list[Damage]:
        """What is wrong with the head and the last thousand events."""
        try:
            head = await self.head()
            after = max(0, head.position - _TAIL)
            before = (await self.chains([after])).get(after, b"") if after else chain_start(log)
            events = [event for event in await self.events(after, _TAIL) if event.position <= head.position]
        except LogUnreadable as error:
            return [Damage(0, f"The log cannot be read: {error}.")]
        return [*head_damages(head, log), *damages(events, after, before, head.position)]

    async def _call(self, function: Function, *arguments: Any) -> Sequence[ResultRow]:
        return await call_readable(self._call_function, function, *arguments)


async def call_readable(
    call: Callable[..., Awaitable[Sequence[ResultRow]]], function: Function, *arguments: Any
) -> Sequence[ResultRow]:
    """The rows that a function returns. LogUnreadable where the server finds its files damaged."""
    try:
        return await call(function, *arguments)
    except Unavailable as error:
        if str(getattr(error.__cause__, "sqlstate", "") or "").startswith(_CORRUPT):
            raise LogUnreadable(str(error)) from error
        raise
