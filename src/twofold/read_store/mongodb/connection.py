"""The connection to a replica set: opened and checked, with retries while it elects a primary."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pymongo
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from twofold.errors import WiringError
from twofold.read_store import refusals
from twofold.read_store.mongodb.address import MongoAddress, malformed_url
from twofold.read_store.mongodb.errors import AUTHENTICATION_FAILED, is_transient, unavailable
from twofold.read_store.mongodb.rows import MongoDocument
from twofold.retrying import retry_until_deadline
from twofold.uncancellable import UncancellableTasks
from twofold.world import World

T = TypeVar("T")
Collection = AsyncCollection[MongoDocument]

_OPENING = 10.0
"""Seconds after which a server that does not answer counts as unreachable when a store is opened."""

_CONNECTIONS = 16
_OLDEST = 13
"""The wire version of MongoDB 5.0, the first that reads in a snapshot without a transaction."""

# Durable on most members. Never j=False: with "majority" each write then waits for the journal's clock of 100 ms.
_WRITE_CONCERN = WriteConcern("majority", j=True)


class MongoConnection:
    """A database in a replica set. After a transient error a call is repeated, for up to `patience` seconds.

    Everything may be repeated. The driver's own retries of writes are off: for them the server would note each row of
    a batch in a transaction table, which halves the speed. What runs in `tasks` cannot be cancelled: a save that is
    interrupted is as harmless as a crash, but each interrupted call loses a connection.
    """

    def __init__(self, address: MongoAddress, world: World, patience: float) -> None:
        self.address = address
        self.patience = patience
        self._world = world
        self.tasks = UncancellableTasks(str(refusals.closed(address.shown)))
        self._client = self._connect(address.url)
        self.database: AsyncDatabase[MongoDocument] = self._client.get_database(
            address.database,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_WRITE_CONCERN,
            read_concern=ReadConcern("majority"),
        )

    def collection(self, name: str, *, latest: bool = False) -> Collection:
        """A collection, read as the majority has it.

        `latest` reads what the primary has. A primary that was just elected has all that was acknowledged, but does
        not know yet that a majority has it too: what it returns for the majority may be older.
        """
        concern = ReadConcern("local") if latest else None
        return self.database.get_collection(name, read_concern=concern)

    def session(self) -> Any:
        """A new session in which everything is read as of one moment, that of the first read."""
        return self._client.start_session(snapshot=True)

    async def check(self) -> None:
        """Find the primary. WiringError for servers without what is needed, Unavailable if none answers in time."""
        try:
            with pymongo.timeout(min(_OPENING, self.patience)):
                hello = await self._client.admin.command("hello")
        except ConfigurationError as error:
            raise WiringError(f"MongoDB at {self.address.shown} cannot be used: {error}") from error
        except OperationFailure as error:
            if error.code == AUTHENTICATION_FAILED:
                raise WiringError(
                    f"MongoDB at {self.address.shown} refuses the user or the password. A user made in another "
                    "database than the one named needs ?authSource=…."
                ) from error
            raise unavailable(self.address, error) from error
        except PyMongoError as error:
            await self._diagnose()
            raise unavailable(self.address, error) from error
        self._check_server(hello)

    async def retry(
        self, call: Callable[[], Awaitable[T]], *, also: frozenset[int] = frozenset(), bounded: bool = True
    ) -> T:
        """The result of `call`, repeated after a transient error (or one with a code in `also`).

        Unless `bounded`, an attempt may take any time. Unavailable after `patience` seconds.
        """

        async def attempt(left: float) -> T:
            # Half of what is left, so that there is time for another server if this one hangs.
            with pymongo.timeout(max(left / 2, 1.0) if bounded else None):
                return await call()

        def retryable(error: Exception) -> bool:
            return isinstance(error, PyMongoError) and (is_transient(error) or getattr(error, "code", None) in also)

        try:
            return await retry_until_deadline(
                attempt, world=self._world, patience=self.patience, retryable=retryable, first=0.05
            )
        except PyMongoError as error:
            raise unavailable(self.address, error) from error

    async def insert_if_absent(self, collection: Collection, document: MongoDocument) -> None:
        """Insert a document, unless one with its `_id` exists."""

        async def insert() -> None:
            with contextlib.suppress(DuplicateKeyError):
                await collection.insert_one(document)

        await self.retry(insert)

    async def close(self) -> None:
        """Close the connections when all work is done, even if the caller is cancelled."""
        await self.tasks.close(self._client.close)

    def _connect(self, url: str, **options: Any) -> AsyncMongoClient[MongoDocument]:
        if "maxpoolsize" not in self.address.parameters:
            options["maxPoolSize"] = _CONNECTIONS
        try:
            return AsyncMongoClient(url, appname="twofold", retryWrites=False, **options)
        except (PyMongoError, ValueError, TypeError):
            # The driver's message may show a part of the URL, and so of the password.
            raise malformed_url() from None

    async def _diagnose(self) -> None:
        """WiringError if a server that answers is in no replica set, or in another one: the driver ignores such."""
        replica_set = self.address.parameters.get("replicaset")
        for host in self.address.hosts.split(","):
            options: dict[str, Any] = {"directConnection": True, "replicaSet": None}
            async with self._connect(f"mongodb://{host}", **options) as direct:
                try:
                    with pymongo.timeout(1.0):
                        hello = await direct.admin.command("hello")
                except PyMongoError:
                    # The caller reports the first error; this one adds nothing.
                    continue
            self._check_server(hello)
            if replica_set and hello.get("setName", replica_set) != replica_set:
                raise WiringError(
                    f"MongoDB at {host} is in the replica set '{hello['setName']}', not in '{replica_set}'. "
                    f"Write ?replicaSet={hello['setName']} in the read store's URL."
                )

    def _check_server(self, hello: MongoDocument) -> None:
        where = self.address.shown
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise WiringError(
                f"MongoDB at {where} is not in a replica set, which is needed to read as of one moment. "
                "A replica set may be one server: start mongod with --replSet rs0, run rs.initiate() in mongosh once, "
                "and add ?replicaSet=rs0 to the read store's URL."
            )
        if hello["maxWireVersion"] < _OLDEST:
            raise WiringError(f"MongoDB at {where} is older than 5.0. Upgrade it to 5.0 or newer.")
