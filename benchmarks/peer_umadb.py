"""The peer UmaDB: a server of its own (written in Rust, with its Python client), the same work.

`python -m benchmarks.peer_umadb CALLERS SECONDS` prints commands a second.
"""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from umadb import AppendCondition, Client, Event, IntegrityError, Query, QueryItem

from benchmarks.bank import HISTORY
from benchmarks.peers import ACCOUNTS


def deposit(client: Client, account: str, amount: int) -> None:
    """Load the account, decide, append if nothing has come in between; again if it has."""
    query = Query(items=[QueryItem(types=["deposited"], tags=[account])])
    while True:
        events, head = client.read(query).collect_with_head()
        balance = sum(json.loads(each.event.data)["amount"] for each in events)
        if balance + amount > 10**12:
            raise ValueError("too rich")
        event = Event(event_type="deposited", data=json.dumps({"amount": amount}).encode(), tags=[account])
        try:
            client.append([event], condition=AppendCondition(fail_if_events_match=query, after=head))
            return
        except IntegrityError:
            continue


def commands(url: str, callers: int, seconds: float) -> float:
    """Commands a second, a thread with a client of its own for each caller."""
    clients = [Client(url) for _ in range(callers)]
    for n in range(ACCOUNTS):
        past = [Event(event_type="deposited", data=b'{"amount":1}', tags=[f"account:a-{n}"]) for _ in range(HISTORY)]
        clients[0].append(past)
    counts = [0] * callers
    end = time.perf_counter() + seconds

    def caller(number: int) -> None:
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            deposit(clients[number], f"account:a-{(number + turn * callers) % ACCOUNTS}", 1)
            counts[number] = turn

    start = time.perf_counter()
    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def main() -> None:
    """Start a server, measure, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(sys.executable).with_name("umadb")
        options = ["--listen", address, "--db-path", folder]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            host, _, port = address.partition(":")
            while True:
                try:
                    socket.create_connection((host, int(port)), 0.2).close()
                    break
                except OSError:
                    time.sleep(0.05)
            print(commands(f"http://{address}", int(sys.argv[1]), float(sys.argv[2])))
        finally:
            server.terminate()
            server.wait()


def contestant(callers: int, seconds: float) -> float:
    """The same, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peer_umadb", str(callers), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
