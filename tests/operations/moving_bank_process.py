"""A process that runs the bank under load and moves its log, until it is killed. It notes what it acknowledged.

Arguments: the URLs before and after, the file of the history, and where it kills itself (`before seal`, `after
complete`, …), or nothing.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.operations.moving_bank_helpers import Callers, moving_bank
from twofold import App, WiringError
from twofold.log_moving import CutOver
from twofold.operations.move import move
from twofold.receipt import Receipt
from twofold.world import RealWorld
from twofold.write_store.postgres.content import PostgresClosedLog
from twofold.write_store.postgres.copying import PostgresLogCopy
from twofold.write_store.sqlite.copying import SqliteLogCopy
from twofold.write_store.sqlite.snapshot import SqliteClosedLog

STEPS: dict[str, list[type]] = {
    "add_events": [SqliteLogCopy, PostgresLogCopy],
    "settle": [SqliteLogCopy, PostgresLogCopy],
    "complete": [SqliteLogCopy, PostgresLogCopy],
    "seal": [SqliteClosedLog, PostgresClosedLog],
    "opened": [CutOver],
}


def kill_at(moment: str, step: str) -> None:
    """Let this process kill itself before or after a step of the move."""
    for kind in STEPS[step]:
        call = getattr(kind, step)

        async def killed(*arguments: Any, _call: Any = call) -> Any:
            if moment == "after":
                await _call(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(kind, step, killed)


async def opened_bank(before: str, after: str) -> App:
    """The app on the one of two logs that is the log: what a person does who reads the errors."""
    app = moving_bank(before)
    try:
        await app.start()
    except WiringError as error:
        assert "was moved to" in str(error)
    else:
        return app
    app = moving_bank(after)
    try:
        await app.start()
    except WiringError as error:
        assert "is not complete" in str(error)
        await move(before, after, RealWorld())
        await app.start()
    return app


async def live(before: str, after: str, history: str) -> None:
    """Move the log, if it is not moved yet, while callers deposit; then let them go on."""
    app = await opened_bank(before, after)
    with Path(history).open("a", encoding="utf-8") as file:
        # Each process has its own numbers.
        callers = Callers(app, start=100_000 * (1 + file.tell()))

        def note(command_id: str, receipt: Receipt) -> None:
            # What was written is there after a kill of the process.
            file.write(json.dumps([command_id, receipt.position, receipt.events]) + "\n")
            file.flush()

        callers.acknowledged = note
        async with callers.running():
            await callers.more(5)
            os.write(sys.stdout.fileno(), b"running\n")
            if app.settings.write_store == before:
                status = await app.move_to(after)
                os.write(sys.stdout.fileno(), f"paused {status.pause_seconds}\n".encode())
                await callers.more(5)
            await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[4:]:
        kill_at(*sys.argv[4:])
    with asyncio.Runner() as runner:
        task = runner.get_loop().create_task(live(*sys.argv[1:4]))
        runner.get_loop().run_until_complete(asyncio.wait([task]))
        # At once: the stores are still open, and nobody waits for them.
        sys.stderr.write(f"It was not killed: {task.exception()!r}\n")
        sys.stderr.flush()
        os._exit(1)
