"""One node of several: `python -m tests.end_to_end.invoice_node URL NAME SENDERS` numbers invoices, all of one series.

It prints `ready`, waits for a line, and then sends until the next line comes, or until the input ends. Meanwhile it
prints how many invoices it has after each hundred. At last it prints the number of each sender, and the conflicts.
"""

import asyncio
import sys

import msgspec

from twofold import App, Context, DecisionModel, Module
from twofold.errors import Conflict


class Invoice(msgspec.Struct, frozen=True):
    """Gets the next number of all."""


class Invoiced(msgspec.Struct, frozen=True):
    number: int
    sender: str


class Invoices(msgspec.Struct, frozen=True):
    last: int = 0

    def evolve(self, event: Invoiced) -> "Invoices":
        return Invoices(event.number)


def invoice(command: Invoice, invoices: Invoices, context: Context) -> Invoiced:
    return Invoiced(invoices.last + 1, context.command_id)


INVOICES = Module("invoices", events=[Invoiced], models=[DecisionModel(Invoices)], decisions=[invoice])


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(url: str, name: str, senders: int) -> None:
    """Send until there is a second line of input."""
    written = [0] * senders
    conflicts = 0
    async with App(INVOICES, write_store=url, read_store="memory:") as app:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        stop = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))

        async def sender(number: int) -> None:
            nonlocal conflicts
            turn = 0
            while not stop.done():
                turn += 1
                try:
                    await app.send(Invoice(), command_id=f"{name}-{number}-{turn}")
                except Conflict:
                    conflicts += 1
                    continue
                written[number] += 1
                if sum(written) % 100 == 0:
                    say(sum(written))

        await asyncio.gather(*(sender(number) for number in range(senders)))
        say(f"end {conflicts} {' '.join(map(str, written))}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
