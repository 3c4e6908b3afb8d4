"""The address of a log in PostgreSQL, read from its URL."""

from twofold import postgres_server
from twofold.postgres_server import PostgresAddress

SCHEMA = "twofold"


def address_of(url: str) -> PostgresAddress:
    """The parts of a `postgresql://` URL. WiringError, naming the parameter and the cure, where one is wrong."""
    return postgres_server.address_of(url, SCHEMA)
