"""An app with events of any size as a server for tests, with the limits of `twofold serve`; run it to serve it.

python -m tests.http.large_events_server FOLDER [FILES] prints its address, then serves until SIGTERM. With FILES it may
have no more open files than that.
"""

import resource
import sys
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from tests.http.bank_server import print_address
from twofold import App, Module, Projection, Settings, Tag, View
from twofold.http.server import run, serve

DocumentId = Annotated[str, Tag("document")]


class Write(Struct, frozen=True):
    """Write a document."""

    document_id: DocumentId
    text: str = ""


class Written(Struct, frozen=True):
    """A document was written."""

    document_id: DocumentId
    text: str


class Document(Struct, frozen=True):
    """A document and its size."""

    document_id: str
    size: int
    text: str


class Documents(Struct, frozen=True):
    """The first documents."""

    limit: int = 1


def write(command: Write) -> Written:
    return Written(command.document_id, command.text)


def keep(row: Document | None, event: Written) -> Document:
    return Document(event.document_id, len(event.text), event.text[:60_000])


async def documents(query: Documents, rows: View[Document]) -> list[Document]:
    return await rows.find(limit=query.limit)


def open_documents(folder: Path) -> App:
    module = Module(
        "documents",
        events=[Written],
        decisions=[write],
        projections=[Projection("documents", keep, key=DocumentId)],
        queries=[documents],
    )
    settings = Settings(write_store=f"sqlite:///{folder}/log.db", read_store=f"sqlite:///{folder}/views.db")
    return App(module, settings=settings)


def main() -> None:
    folder, *files = sys.argv[1:]
    if files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files[0]), int(files[0])))
    run(serve(open_documents(Path(folder)), port=0, started=print_address))


if __name__ == "__main__":
    main()
