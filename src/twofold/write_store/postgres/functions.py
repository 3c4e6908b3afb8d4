"""The SQL functions of a log in PostgreSQL, each called in one round trip and one transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from twofold.write_store.postgres import literals

ResultRow = Any
"""A row of a result: a tuple, or a record of the driver."""


class Function(NamedTuple):
    """A function of the log's schema, with the types of its arguments and of the columns it returns."""

    name: str
    arguments: tuple[str, ...]
    columns: tuple[str, ...]


READ = Function(
    "read",
    ("bigint", "bigint", "bigint[]", "text[]", "text[]", "jsonb", "text"),
    ("bigint", "int", "int", "bytea", "bytea"),
)
APPEND = Function(
    "append",
    tuple(
        """
        int bigint text[] bytea[] bigint[] int[] int[] int[] int[] bytea[] bytea[] int[] text[]
        int[] bigint[] text[] int[] int[] int[] jsonb int[] text[] text[] bytea[] bigint[]
        bigint[] int[] text[] text[] bigint[]
        """.split()
    ),
    ("bigint", "bigint", "int[]", "int[]", "bytea[]", "bigint[]", "int[]", "bigint[]"),
)
STATE = Function("state", (), ("text", "int", "bigint", "int", "text", "int[]", "bigint[]"))
ROWS = Function("rows_of", ("text", "text[]", "text", "bigint"), ("text", "bytea", "bigint", "int"))
TYPES = Function("types", (), ("int", "text"))
ENVELOPES = Function("envelopes", ("bigint[]",), ("bigint", "bytea"))
TELL = Function("tell", ("text",), ("int",))
ENTER = Function("enter", (), ("bigint",))
RAISE_EPOCH = Function("raise_epoch", ("int", "text"), ("int",))
NUMBER_TYPES = Function("number_types", ("text[]",), ("int", "text"))
FORGET_COMMANDS = Function("forget_commands", ("bigint", "int"), ("bigint",))
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
            written = ", ".join(literals.literal(value, type) for value, type in values)
        except ValueError as error:
            # The error that the server raises for the same value in a prepared statement.
            raise asyncpg.CharacterNotInRepertoireError(str(error)) from error
        answer = bytearray()

        async def collect(data: bytes) -> None:
            answer.extend(data)

        await connection.copy_from_query(
            f"select * from {self._schema}.{function.name}({written})", output=collect, format="binary"
        )
        return literals.rows(bytes(answer), function.columns)


def _statement(schema: str, function: Function) -> tuple[str, Sequence[int]]:
    """The SQL of a call, and the arguments that are sent as text.

    These are arrays of integers: the driver takes four times as long to encode them one by one.
    """
    as_text = [i for i, type in enumerate(function.arguments) if type in ("int[]", "bigint[]")]
    numbered = ", ".join(
        f"${i}::text::{type}" if i - 1 in as_text else f"${i}::{type}" for i, type in enumerate(function.arguments, 1)
    )
    return f"select * from {schema}.{function.name}({numbered})", as_text
