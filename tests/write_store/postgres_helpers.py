"""Empty logs in a PostgreSQL that tests share, and logs that are broken on purpose."""

from unittest.mock import patch

import asyncpg

from tests.servers.postgres import fresh_schema
from twofold.world import RealWorld
from twofold.write_store.migration import MigrationStep
from twofold.write_store.postgres import migrate


async def fresh_log(dsn: str) -> str:
    """The URL of a new, empty log in the database `dsn` names."""
    url = f"{dsn}?schema={fresh_schema()}"
    await migrate.migrate(url, RealWorld())
    return url


async def emptied(url: str) -> str:
    """The same URL, once its log is empty again. This takes less than half the time of a new one."""
    schema = url.rpartition("=")[2]
    tables = ", ".join(
        f"{schema}.{name}" for name in ("epochs", "event_types", "events", "event_tags", "commands", "rows")
    )
    connection = await asyncpg.connect(url.partition("?")[0])
    # The log's triggers refuse every change.
    await connection.execute(
        "set session_replication_role = replica;"
        f"truncate {tables} restart identity;"
        f"update {schema}.log_head set epoch = 1, position = 0, chain = {schema}.chain_start(name)"
    )
    await connection.close()
    return url


async def broken_log(dsn: str, *changes: tuple[str, str]) -> str:
    """The URL of a new log whose SQL has been changed. Each text to be changed is there, once or more."""
    applied: set[str] = set()
    sound = migrate.migrations

    def broken(schema: str) -> list[MigrationStep]:
        steps: list[MigrationStep] = []
        for step in sound(schema):
            sql = step.sql
            for old, new in changes:
                if old in sql:
                    applied.add(old)
                    sql = sql.replace(old, new)
            steps.append(step._replace(sql=sql))
        return steps

    with patch.object(migrate, "migrations", broken):
        url = await fresh_log(dsn)
    assert applied == {old for old, _ in changes}, "the SQL has been edited: this mutant changes nothing any more"
    return url
