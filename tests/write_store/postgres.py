"""In charge of empty logs in a PostgreSQL that tests share."""

from tests.servers.postgres import fresh_schema
from twofold.world import RealWorld
from twofold.write_store.postgres.migrate import migrate


async def fresh_log(dsn: str) -> str:
    """The URL of a new, empty log in the database `dsn` names."""
    url = f"{dsn}?schema={fresh_schema()}"
    await migrate(url, RealWorld())
    return url
