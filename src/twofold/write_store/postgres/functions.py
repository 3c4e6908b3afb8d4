"""In charge of calling the log's SQL functions, in one round trip and one transaction each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from twofold.write_store.postgres import literals

ResultRow = Any
"""A tuple, or what the driver gives instead of one."""


class Function(NamedTuple):
    """A function of the log's schema: the types of its arguments and of the columns it answers."""

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
    """Calls functions over a connection: as prepared statements, or as plain text where a pooler hands connections on.

    PgBouncer in transaction mode may give each message another server connection, on which a statement prepared before
    is not known. There a call is one COPY (SELECT …) TO STDOUT: the only simple query whose rows the driver hands out.
    """

    def __init__(self, schema: str, *, plain: bool) -> None:
        self._schema = schema
        self._plain = plain
        self._prepared: dict[str, tuple[str, Sequence[int]]] = {}

    async def call(self, connection: asyncpg.Connection, function: Function, *arguments: Any) -> Sequence[ResultRow]:
        """The rows a function answers. asyncpg's errors, and OSError, where it fails."""
        if self._plain:
            return await self._copy(connection, function, arguments)
        known = self._prepared.get(function.name)
        if known is None:
            known = self._prepared[function.name] = _statement(self._schema, function)
        sql, as_text = known
        if as_text:
            given = list(arguments)
            for i in as_text:
                # [1, 2] as {1, 2}
                given[i] = f"{{{str(given[i])[1:-1]}}}"
            arguments = tuple(given)
        return await connection.fetch(sql, *arguments)

    async def _copy(
        self, connection: asyncpg.Connection, function: Function, arguments: Sequence[Any]
    ) -> Sequence[ResultRow]:
        try:
            values = zip(arguments, function.arguments, strict=True)
            written = ", ".join(literals.literal(value, type) for value, type in values)
        except ValueError as error:
            # What the server says to the same value where it can be sent.
            raise asyncpg.CharacterNotInRepertoireError(str(error)) from error
        answer = bytearray()

        async def collect(data: bytes) -> None:
            answer.extend(data)

        await connection.copy_from_query(
            f"select * from {self._schema}.{function.name}({written})", output=collect, format="binary"
        )
        return literals.rows(bytes(answer), function.columns)


def _statement(schema: str, function: Function) -> tuple[str, Sequence[int]]:
    """The SQL of a call, and which arguments go as text: whole numbers in arrays, which the driver takes four times as
    long to encode one by one."""
    as_text = [i for i, type in enumerate(function.arguments) if type in ("int[]", "bigint[]")]
    numbered = ", ".join(
        f"${i}::text::{type}" if i - 1 in as_text else f"${i}::{type}" for i, type in enumerate(function.arguments, 1)
    )
    return f"select * from {schema}.{function.name}({numbered})", as_text
