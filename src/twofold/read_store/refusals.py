"""The errors that every read store raises in the same case, each with its sentence."""

from collections.abc import Mapping
from typing import TypeVar

from twofold.errors import InvalidMessage, Unavailable, WiringError
from twofold.read_store.port import ReadModel

T = TypeVar("T")


def malformed_url(example: str) -> WiringError:
    """A URL that cannot be parsed. No part of it is shown: any part may be the password."""
    return WiringError(
        f"The read store's URL cannot be parsed. Write {example}, and in the password %2F for '/', %3A for ':', "
        "%40 for '@', %23 for '#', %3F for '?', %25 for '%'."
    )


def read_only(where: str) -> Unavailable:
    """A write, in a store that was opened for reading. `where` names file or server, here and below."""
    return Unavailable(f"{where} is open for reading only. Ask the process that writes.")


def closed(where: str) -> Unavailable:
    """A call after `close`."""
    return Unavailable(f"The read store at {where} is closed.")


def prepared(tables: Mapping[tuple[str, int], T], model: ReadModel) -> T:
    """The table of a model, by name and generation. WiringError where `prepare` was not called for it."""
    try:
        return tables[model.name, model.generation]
    except KeyError as error:
        raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error


def missing(where: str, what: str, model: ReadModel) -> Unavailable:
    """What a reader needs and no writer has made yet. `what` is "table", "column" or "index"."""
    return Unavailable(
        f"{where} has no {what} of read model '{model.name}' generation {model.generation} yet. Start the app that "
        "writes it with the same modules."
    )


def cannot_store(model: ReadModel, key: str, error: Exception) -> InvalidMessage:
    """A row that the store cannot hold, for this reason."""
    if isinstance(error, InvalidMessage):
        return InvalidMessage(f"Row '{key[:100]}' of '{model.name}': {error}", field=error.field)
    return InvalidMessage(f"Row {key[:100]!r} of '{model.name}' cannot be stored: {error}.")
