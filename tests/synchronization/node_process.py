"""A node in a process of its own, that follows for the counters until it is reported to stop."""

import asyncio
import signal
import sys

from tests.sample_domains.counters import CounterId, add_up
from tests.synchronization.cluster_helpers import counting_app
from twofold.domain.projection import Projection


async def main(write_store: str, read_store: str, lease: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    projection = Projection("totals", add_up, key=CounterId, partitions=4)
    async with counting_app(
        [projection], write_store=write_store, read_store=read_store, lease_seconds=lease, page_events=50
    ):
        sys.stdout.write("following\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
