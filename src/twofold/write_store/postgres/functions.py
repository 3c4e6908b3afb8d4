"""The SQL functions of a log in PostgreSQL, each called in one round trip and one transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from twofold.write_store.postgres import literals

ResultRow = Any
"""A row of a result: a tuple, or a record of the driver."""


# Up to the event that brings the bytes to the size: the server does not even read the long payloads after it from where
# it stores them. The rows before the events (of types below 0) do not count.
_UP_TO_SIZE = """
select at, type_id, version, payload, envelope, tags, chain from (
    select r.*, sum(case when r.type_id >= 0 then octet_length(r.payload) + octet_length(r.envelope) else 0 end)
                over (rows between unbounded preceding and 1 preceding) as before
      from {schema}.{name}({arguments}) as r
) as counted where coalesce(before, 0) < {last}
"""


class Function(NamedTuple):
    """A function of the log's schema, with the types of its arguments and of the columns it returns.

    `sql` is how it is called. In that of a function with a size, the size is the last argument.
    """

    name: str
    arguments: tuple[str, ...]
    columns: tuple[str, ...]
    sql: str = "select * from {schema}.{name}({arguments})"

    def call(self, schema: str, arguments: Sequence[str]) -> str:
        """The SQL of a call with these arguments, each as SQL."""
        last = arguments[-1] if arguments else ""
        passed = arguments[:-1] if "{last}" in self.sql else arguments
        return self.sql.format(schema=schema, name=self.name, arguments=", ".join(passed), last=last)


READ = Function(
    "read",
    ("bigint", "bigint", "bigint[]", "text[]", "text[]", "jsonb", "text", "bigint", "bigint"),
    ("bigint", "int", "int", "bytea", "bytea", "bytea", "bytea"),
    _UP_TO_SIZE,
)
RESERVE = Function("reserve", ("int", *READ.arguments), READ.columns, _UP_TO_SIZE)
APPEND = Function(
    "append",
    tuple(
        """
        int bigint bigint bytea text[] bytea[] bigint[] int[] int[] int[] int[] bytea[] bytea[] bytea[] bytea[]
        int[] text[] int[] bigint[] text[] int[] int[] int[] jsonb int[] text[] text[] bytea[] bigint[]
        bigint[] int[] text[] text[] bigint[]
        """.split()
    ),
    ("bigint", "bigint", "bytea", "bytea[]", "int[]", "int[]", "bytea[]", "bigint[]", "int[]", "bigint[]", "bytea[]"),
)
STATE = Function(
    "state",
    ("bigint",),
    ("text", "int", "bigint", "int", "text", "int[]", "bigint[]", "bytea", "bytea", "text", "text"),
)
ROWS = Function("rows_of", ("text", "text[]", "text", "bigint"), ("text", "bytea", "bigint", "int", "bigint"))
TYPES = Function("types", (), ("int", "text"))
TAGS = Function("tags_of", ("bigint[]",), ("bigint", "bytea"))
TELL = Function("tell", ("text",), ("int",))
ENTER = Function("enter", (), ("bigint",))
RAISE_EPOCH = Function("raise_epoch", ("int", "text"), ("int",))
NUMBER_TYPES = Function("number_types", ("text[]",), ("int", "text"))
ADVANCE_CLOCK = Function("advance_clock", ("bigint",), ("bigint",))
FORGET_COMMANDS = Function("forget_commands", ("bigint", "int"), ("bigint",))
CLOSE_LOG = Function("close_log", (), ("int",))
SEAL = Function("seal", ("int", "text"), ("int",))
RETAG = Function("retag", ("bigint[]", "bytea[]", "bytea[]", "int[]", "text[]"), ("bigint",))


class Caller:
    """Calls functions over a connection: as prepared statements, or as plain text behind PgBouncer.

    PgBouncer in transaction mode may send each message to another server connection, which does not know statements
    that were prepared before. There a call is one COPY (SELECT …) TO STDOUT: the only simple query whose rows the
    driver returns.
    """

    def __init__(self, schema: str, *, plain: bool) -> None:
        self._schema = schema
        self._plain = plain
        self._prepared: dict[str, tuple[str, Sequence[int]]] = {}

    async def call(self, connection: asyncpg.Connection, function: Function, *arguments: Any) -> Sequence[ResultRow]:
        """The rows a function returns. Raises asyncpg's errors and OSError."""
        if self._plain:
            return await self._copy(connection, function, arguments)
        known = self._prepared.get(function.name)
        if known is None:
            known = self._prepared[function.name] = _statement(self._schema, function)
        sql, as_text = known
        if as_text:
            converted = list(arguments)
            for i in as_text:
                # [1, 2] as {1, 2}
                converted[i] = f"{{{str(converted[i])[1:-1]}}}"
            arguments = tuple(converted)
        return await connection.fetch(sql, *arguments)

    async def _copy(
        self, connection: asyncpg.Connection, function: Function, arguments: Sequence[Any]
    ) -> Sequence[ResultRow]:
        try:
            values = zip(arguments, function.arguments, strict=True)
            written = [literals.literal(value, type) for value, type in values]
        except ValueError as error:
            # The error that the server raises for the same value in a prepared statement.
            raise asyncpg.CharacterNotInRepertoireError(str(error)) from error
        answer = bytearray()

        async def collect(data: bytes) -> None:
            answer.extend(data)

        await connection.copy_from_query(function.call(self._schema, written), output=collect, format="binary")
        return literals.rows(bytes(answer), function.columns)


def _statement(schema: str, function: Function) -> tuple[str, Sequence[int]]:
    """The SQL of a call, and the arguments that are sent as text.

    These are arrays of integers: the driver takes four times as long to encode them one by one.
    """
    as_text = [i for i, type in enumerate(function.arguments) if type in ("int[]", "bigint[]")]
    numbered = [
        f"${i}::text::{type}" if i - 1 in as_text else f"${i}::{type}" for i, type in enumerate(function.arguments, 1)
    ]
    return function.call(schema, numbered), as_text
