"""What a log in PostgreSQL stores beside its events, as it is stored, to be checked for damage."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twofold.errors import Unavailable
from twofold.write_store.checksums import damaged_command
from twofold.write_store.port import Append, Outcome
from twofold.write_store.postgres.batch import repeats
from twofold.write_store.postgres.functions import Function, ResultRow
from twofold.write_store.postgres.raw_log import call_readable
from twofold.write_store.verification import ChecksumTotals, LogUnreadable, RowOfLog, StateRow

ROWS = Function("raw_rows", ("text", "text", "bigint"), ("text", "text", "bigint", "bytea", "bigint"))
STATE = Function("raw_state", (), ("int[]", "bigint[]", "bigint[]", "bigint", "bigint"))
TOTALS = Function("raw_totals", (), ("bigint", "bigint", "bigint", "bigint"))
CHECKSUMS = Function("raw_checksums", ("text[]",), ("text", "boolean"))


class PostgresRawState:
    """Rows, epochs and sums of a log, each page in one call of a SQL function. `call` calls one."""

    def __init__(self, call: Callable[..., Awaitable[Sequence[ResultRow]]]) -> None:
        self._call_function = call

    async def rows(self, after: tuple[str, str], limit: int) -> Sequence[RowOfLog]:
        return [RowOfLog(*row) for row in await self._call(ROWS, *after, limit)]

    async def state(self) -> StateRow:
        for epochs, afters, checksums, clock, clock_checksum in await self._call(STATE):
            return StateRow(list(zip(epochs, afters, checksums, strict=True)), clock, clock_checksum)
        raise LogUnreadable("the row of the table command_clock is missing")

    async def totals(self) -> ChecksumTotals:
        for row in await self._call(TOTALS):
            return ChecksumTotals(*row)
        raise LogUnreadable("the row of the table log_head or of command_clock is missing")

    async def sound(self, batch: Sequence[Append], outcomes: list[Outcome]) -> list[Outcome]:
        """The same outcomes. Unavailable where one is that of a command whose row is not what was written."""
        await self.refuse_damaged(repeats(batch, outcomes))
        return outcomes

    async def refuse_damaged(self, command_ids: Sequence[str | None]) -> None:
        """Unavailable where what is remembered of one of these commands is not what was written."""
        for command_id, sound in await self._call_function(CHECKSUMS, list(command_ids)) if command_ids else ():
            if not sound:
                raise Unavailable(damaged_command(command_id), retry_after=60.0)

    async def _call(self, function: Function, *arguments: Any) -> Sequence[ResultRow]:
        return await call_readable(self._call_function, function, *arguments)
