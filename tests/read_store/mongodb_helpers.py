"""What tests of the read store in MongoDB ask the server itself, without the store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from tests.servers.mongodb import ReplicaSet
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.mongodb.rows import MongoTable
from twofold.read_store.port import ReadModel

Document = dict[str, Any]

WITH_SERVERS_AWAY = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.usefixtures("unclosed_collected"),
]
"""Marks of tests in which servers do not respond."""


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[MongoReadStore]:
    """The store at a URL, closed at the end."""
    store = await MongoReadStore.open(url, **options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def database(url: str) -> AsyncIterator[Any]:
    """The database at a URL, as the driver returns it."""
    async with AsyncMongoClient[Document](url) as client:
        yield client.get_default_database()


async def documents(url: str, model: ReadModel) -> dict[str, Document]:
    """Everything in the collection of a model, deleted rows too, by key."""
    async with database(url) as mongo:
        return {document["_id"]: document async for document in mongo[MongoTable(model).collection].find({})}


def fail(servers: ReplicaSet, command: str, times: int = 1, **how: Any) -> None:
    """Let the next of these commands of stores fail on the primary, as a failpoint of MongoDB does."""
    data = {"failCommands": [command], "appName": "twofold", **how}
    servers.primary.ask("configureFailPoint", "failCommand", mode={"times": times}, data=data)
