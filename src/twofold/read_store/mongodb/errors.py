"""The errors of the MongoDB driver: which are transient, and which error of ours each becomes."""

from collections.abc import Iterator

from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError

from twofold.errors import Unavailable
from twofold.read_store.mongodb.address import MongoAddress

AUTHENTICATION_FAILED = 18
DUPLICATE_KEY = 11_000
INDEX_NOT_FOUND = 27
SNAPSHOT_UNAVAILABLE = 246
"""A collection or index is younger than what the majority has. A moment later it is not."""

_TRANSIENT = frozenset(
    {
        *(6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 10058, 134),  # no primary, or no connection
        *(24, 50, 64, 75, 100, 112, 117, 276),  # a timeout, or a conflict with another operation
    }
)
"""Codes of errors that may not occur on the next attempt."""


def is_transient(error: PyMongoError) -> bool:
    return error.timeout or isinstance(error, ConnectionFailure) or not _TRANSIENT.isdisjoint(_codes(error))


def unavailable(address: MongoAddress, error: PyMongoError) -> Unavailable:
    reason = str(error).partition(", Topology Description")[0].partition(", full error")[0][:500]
    if is_transient(error):
        return Unavailable(f"MongoDB at {address.shown} cannot be reached ({reason}).")
    return Unavailable(f"MongoDB at {address.shown} refused: {reason}")


def _codes(error: PyMongoError) -> Iterator[int]:
    if isinstance(error, BulkWriteError):
        details = error.details
        for failure in [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]:
            yield failure["code"]
    elif isinstance(error, OperationFailure) and error.code is not None:
        yield error.code
