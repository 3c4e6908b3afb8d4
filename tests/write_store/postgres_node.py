"""A node in a process of its own: `python -m tests.write_store.postgres_node URL NAME` appends until it is killed.

It prints the id of each command when it is acknowledged, and before that the id of the one it is about to send.
"""

import asyncio
import itertools
import sys

from twofold import Metadata
from twofold.domain.events import NewEvent
from twofold.write_store.port import Append
from twofold.write_store.postgres import PostgresWriteStore


def command(command_id: str) -> Append:
    """A command with one event."""
    event = NewEvent(f"{command_id}.0", "noted", 1, ("k:1",), b"{}")
    return Append(Metadata(0, command_id, command_id), (event,), (), command_id, b"note")


async def main(url: str, name: str) -> None:
    """Append for ever."""
    store = await PostgresWriteStore.open(url, patience=30.0)
    for number in itertools.count():
        command_id = f"{name}-{number}"
        sys.stdout.write(f"sends {command_id}\n")
        sys.stdout.flush()
        await store.append([command(command_id)])
        sys.stdout.write(f"has {command_id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
