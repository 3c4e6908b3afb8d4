"""In charge of the driver: connected to a replica set, asked again while it elects a primary, its errors translated."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pymongo
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.read_store.mongodb.address import Address, unreadable
from twofold.world import World

T = TypeVar("T")
Document = dict[str, Any]
Collection = AsyncCollection[Document]

ENTERING = 10.0
"""Seconds after which a server that does not answer counts as away when a store is opened."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5
_CONNECTIONS = 16
_OLDEST = 13
"""The wire version of MongoDB 5.0, the first to read in a snapshot without a transaction."""

_AUTHENTICATION_FAILED = 18
_PASSING = frozenset(
    {
        *(6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 10058, 134),  # no primary, or no connection
        *(24, 50, 64, 75, 100, 112, 117, 276),  # took too long, or came in the way of something else
    }
)
"""Codes of errors that may not come the next time."""

# Durable on most members. Never j=False: with "majority" each write then waits for the journal's clock of 100 ms.
_WRITE_CONCERN = WriteConcern("majority", j=True)


class Client:
    """A database in a replica set. What passes is tried again for `patience` seconds: everything may be repeated.

    The driver does not repeat writes by itself: to be able to, the server would note each row of a batch in a
    transaction table, for half the speed.
    """

    def __init__(self, address: Address, world: World, patience: float) -> None:
        self.address = address
        self._world = world
        self.patience = patience
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._client = self._connect(address.url)
        self.database: AsyncDatabase[Document] = self._client.get_database(
            address.database,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_WRITE_CONCERN,
            read_concern=ReadConcern("majority"),
        )

    def collection(self, name: str, *, latest: bool = False) -> Collection:
        """A collection, read as the majority has it.

        `latest` reads what the primary has. A primary that was just elected has all that was acknowledged, but does
        not know yet that a majority has: what it calls the majority's may be older.
        """
        concern = ReadConcern("local") if latest else None
        return self.database.get_collection(name, read_concern=concern)

    def session(self) -> Any:
        """A new session in which everything is read as of one moment, that of the first read."""
        return self._client.start_session(snapshot=True)

    async def enter(self) -> None:
        """Find the primary. WiringError for servers we cannot work with, Unavailable where none answers in time."""
        try:
            with pymongo.timeout(min(ENTERING, self.patience)):
                hello = await self._client.admin.command("hello")
        except ConfigurationError as error:
            raise WiringError(f"MongoDB at {self.address.shown} cannot be used: {error}") from error
        except OperationFailure as error:
            if error.code == _AUTHENTICATION_FAILED:
                raise WiringError(
                    f"MongoDB at {self.address.shown} refuses the user or the password. A user made in another "
                    "database than the one named needs ?authSource=…."
                ) from error
            raise self.translated(error) from error
        except PyMongoError as error:
            await self._diagnose()
            raise self.translated(error) from error
        self._refuse_unfit(hello)

    async def patiently(
        self, work: Callable[[], Awaitable[T]], *, also: frozenset[int] = frozenset(), bounded: bool = True
    ) -> T:
        """The result of `work`, called again where it failed in passing (or with one of the codes in `also`).

        Not `bounded`, a call may take as long as it likes. Unavailable once patience has ended.
        """
        deadline = self._world.monotonic() + self.patience
        pause = _FIRST_PAUSE
        while True:
            left = max(deadline - self._world.monotonic(), pause)
            try:
                # Half of what is left, so that there is time for another server where this one hangs.
                with pymongo.timeout(max(left / 2, 1.0) if bounded else None):
                    return await work()
            except PyMongoError as error:
                again = passes(error) or getattr(error, "code", None) in also
                if not again or self._world.monotonic() + pause > deadline:
                    raise self.translated(error) from error
            await self._world.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def uncancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on to its end even where the caller is cancelled.

        A save that is broken off half-way is as harmless as a crash, but a connection is lost with every call.
        """
        if self._closing is not None:
            work.close()
            raise Unavailable(f"The read models at {self.address.shown} have been closed.")
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give back the connections when all work is done. Whoever gives up waiting does not stop it half-way."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def translated(self, error: PyMongoError) -> TwofoldError:
        """The error of ours that says the same."""
        said = str(error).partition(", Topology Description")[0].partition(", full error")[0][:500]
        if passes(error):
            return Unavailable(f"MongoDB at {self.address.shown} cannot be reached ({said}).")
        return Unavailable(f"MongoDB at {self.address.shown} refused: {said}")

    async def _close(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._client.close()

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # Where the caller has gone, nobody else looks at the error.
            task.exception()

    def _connect(self, url: str, **options: Any) -> AsyncMongoClient[Document]:
        if "maxpoolsize" not in self.address.parameters:
            options["maxPoolSize"] = _CONNECTIONS
        try:
            return AsyncMongoClient(url, appname="twofold", retryWrites=False, **options)
        except (PyMongoError, ValueError, TypeError):
            # The driver's words may show a part of the URL, and so of a password.
            raise unreadable() from None

    async def _diagnose(self) -> None:
        """WiringError where a server answers that is alone, or in another replica set: the driver just passes it by."""
        wanted = self.address.parameters.get("replicaset")
        for host in self.address.hosts.split(","):
            options: dict[str, Any] = {"directConnection": True, "replicaSet": None}
            async with self._connect(f"mongodb://{host}", **options) as direct:
                try:
                    with pymongo.timeout(1.0):
                        hello = await direct.admin.command("hello")
                except PyMongoError:
                    # It is the server that is looked for, not the cause; the caller knows the error already.
                    continue
            self._refuse_unfit(hello)
            if wanted and hello.get("setName", wanted) != wanted:
                raise WiringError(
                    f"MongoDB at {host} is in the replica set '{hello['setName']}', not in '{wanted}'. "
                    f"Write ?replicaSet={hello['setName']} in the read store's URL."
                )

    def _refuse_unfit(self, hello: Document) -> None:
        where = self.address.shown
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise WiringError(
                f"MongoDB at {where} is not in a replica set, without which nothing can be read as of one moment. "
                "One server is enough for one: start mongod with --replSet rs0, run rs.initiate() in mongosh once, "
                "and add ?replicaSet=rs0 to the read store's URL."
            )
        if hello["maxWireVersion"] < _OLDEST:
            raise WiringError(f"MongoDB at {where} is older than 5.0, which is needed. Upgrade it.")


def passes(error: PyMongoError) -> bool:
    """Whether it may go better next time."""
    return error.timeout or isinstance(error, ConnectionFailure) or not _PASSING.isdisjoint(_codes(error))


def _codes(error: PyMongoError) -> Iterator[int]:
    if isinstance(error, BulkWriteError):
        details = error.details
        for each in [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]:
            yield each["code"]
    elif isinstance(error, OperationFailure) and error.code is not None:
        yield error.code
