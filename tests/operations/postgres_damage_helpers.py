"""Random damages of a PostgreSQL log by SQL, and what is stored in it."""

import random
from typing import Any

import asyncpg

TABLES = ("log_head", "event_types", "events", "event_tags", "commands", "rows", "epochs", "command_clock")
_STORED = {
    "log_head": "name, epoch, position, chain, commands_checksum, rows_checksum",
    "event_types": "type_id, name",
    "events": "*",
    "event_tags": "*",
    "commands": "*",
    "rows": "*",
    "epochs": "epoch, after, checksum",
    "command_clock": "*",
}


class DamagedLog:
    """A log whose tables are damaged, and restored from copies of them."""

    def __init__(self, connection: Any, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    @classmethod
    async def of(cls, url: str) -> "DamagedLog":
        """The log at a URL as it is now, to be damaged."""
        connection = await asyncpg.connect(url.partition("?")[0])
        schema = url.rpartition("=")[2]
        await connection.execute(f"set session_replication_role = replica; set search_path = {schema}")
        for table in TABLES:
            await connection.execute(f"create table copy_of_{table} as select * from {table}")
        return cls(connection, schema)

    async def close(self) -> None:
        await self._connection.close()

    async def restore(self) -> None:
        for table in TABLES:
            overriding = " overriding system value" if table == "event_types" else ""
            await self._connection.execute(
                f"delete from {table}; insert into {table}{overriding} select * from copy_of_{table}"
            )

    async def stored(self) -> list[Any]:
        """All that `verify` answers for."""
        found: list[Any] = []
        for table, columns in _STORED.items():
            rows = await self._connection.fetch(f"select {columns} from {table}")
            found.append(sorted(tuple(row) for row in rows))
        return found

    async def damage(self, chance: random.Random) -> str:
        """Change one thing; the SQL."""
        fetch = self._connection.fetchval
        events = await fetch("select count(*) from events")
        one, two = chance.sample(range(1, events + 1), 2)
        column = chance.choice(("payload", "envelope", "tags", "chain"))
        length = await fetch(f"select octet_length({column}) from events where position = $1", one)
        bit = chance.randrange(8 * length)
        by = chance.choice((-1, 1, 2, 1000))
        command = await fetch("select command_id from commands order by command_id offset $1 limit 1", one % 90)
        row = f"ctid = (select ctid from rows order by key offset {two % 30} limit 1)"
        epoch = f"ctid = (select ctid from epochs order by epoch offset {two % 2} limit 1)"
        hash_bit, row_bit = bit % 256, bit % 160
        at = chance.randrange(300)
        entry = f"(select ctid from event_tags order by tag, type_id, position offset {at} limit 1)"
        type_id = await fetch("select type_id from event_types order by type_id offset $1 limit 1", one % 4)
        flipped = f"set_bit({column}, {bit}, 1 - get_bit({column}, {bit}))"
        flip = f"update events set {column} = {flipped} where position = {one}"
        number = chance.choice(("version", "type_id", "position"))
        copied = chance.choice(("payload", "envelope"))
        remembered = chance.choice(("position", "count", "recorded_at", "nonce", "checksum"))
        sql = chance.choice(
            [
                flip,
                flip,
                flip,
                f"update events set {number} = {number} + {by} where position = {one}",
                f"delete from events where position = {one}",
                f"delete from event_tags where ctid = {entry}",
                f"update event_tags set tag = tag || 'x' where ctid = {entry}",
                f"update event_tags set type_id = type_id + {by} where ctid = {entry}",
                f"update event_tags set position = position + {by} where ctid = {entry}",
                f"insert into event_tags values ('order:o-1', {type_id}, {one}) on conflict do nothing",
                f"update events set {copied} = (select {copied} from events where position = {two}) "
                f"where position = {one}",
                f"update events set position = -1 where position = {one}; update events set position = {one} where "
                f"position = {two}; update events set position = {two} where position = -1",
                f"update event_types set name = name || 'x' where type_id = {type_id}",
                f"delete from event_types where type_id = {type_id}",
                f"update commands set {remembered} = {remembered} + {by} where command_id = '{command}'",
                f"update commands set command_id = command_id || 'x' where command_id = '{command}'",
                f"delete from commands where command_id = '{command}'",
                f"update commands set request_hash = set_bit(request_hash, {hash_bit}, 1 - get_bit(request_hash, "
                f"{hash_bit})) where command_id = '{command}' and octet_length(request_hash) = 32",
                f"update rows set value = set_bit(value, {row_bit}, 1 - get_bit(value, {row_bit})) where {row}",
                f"update rows set {chance.choice(('version', 'checksum'))} = {abs(by)} + 1 where {row}",
                f"update rows set key = key || 'x' where {row}",
                f"delete from rows where {row}",
                f"delete from epochs where {epoch}",
                f"update epochs set after = after + {by} where {epoch}",
                f"update command_clock set at = at + {by}",
                f"update log_head set {chance.choice(('commands_checksum', 'rows_checksum'))} = {abs(by)}",
                f"update log_head set position = position + {by}",
                f"update log_head set epoch = epoch + {abs(by)}",
                "update log_head set name = name || 'x'",
                f"update log_head set chain = (select chain from events where position = {one})",
            ]
        )
        try:
            await self._connection.execute(sql)
        except asyncpg.UniqueViolationError:
            return "refused by the server"
        return str(sql)
