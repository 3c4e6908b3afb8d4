"""The shop in services: real processes of `twofold serve --roles`, clients that repeat what failed, and a load."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from shop.cdnow import OldOrder, old_orders
from tests.servers.server import LOOPBACK, free_port
from twofold.signal import Signal

PATIENCE = 90.0
TWOFOLD = str(Path(sys.executable).parent / "twofold")
_AGAIN = frozenset({409, 502, 503, 504})


class Service:
    """One process of the shop, always on the same port."""

    def __init__(self, roles: str, folder: Path, **environment: str) -> None:
        self.roles = roles
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.command = [TWOFOLD, "serve", "shop:app", "--port", str(self.port), "--roles", roles, "--json"]
        self._folder = folder
        self._environment = environment
        self._errors = folder / f"{roles}-{self.port}.log"
        self.process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        """Start it, and return when it takes requests."""
        with self._errors.open("a") as errors:
            self.process = subprocess.Popen(
                self.command,
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line and json.loads(line)["ok"], f"{self.roles} did not start: {line}{self.said()}"

    async def end(self, how: signal.Signals) -> int:
        """Send a signal and wait. The exit code."""
        process, self.process = self.process, None
        assert process is not None and process.stdout is not None
        process.send_signal(how)
        code = await asyncio.to_thread(process.wait, PATIENCE)
        process.stdout.close()
        return code

    def said(self) -> str:
        return self._errors.read_text() if self._errors.exists() else ""


class Client:
    """Sends commands and asks queries, and repeats what was not answered. A command keeps its key."""

    def __init__(self, url: str, key: str) -> None:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=32)
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, headers=headers)
        self.commands = self.repeats = 0
        self.answered = Signal()
        self.failed: list[str] = []

    async def send(self, name: str, body: dict[str, Any], key: str) -> str:
        """Send a command until it is answered. The token of the receipt."""
        answer = await self._until_answered("POST", f"/commands/{name}", json=body, headers={"idempotency-key": key})
        self.commands += 1
        self.answered.fire()
        token: str = answer.json()["token"] if answer.status_code == 200 else ""
        return token

    async def ask(self, name: str, **parameters: Any) -> Any:
        """The answer of a query."""
        answer = await self._until_answered("GET", f"/queries/{name}", params=parameters)
        return answer.json()["answer"] if answer.status_code == 200 else None

    async def _until_answered(self, method: str, path: str, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = await self.http.request(method, path, **request)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                said = f"{answer.status_code} {answer.text}"
                if answer.status_code == 200:
                    return answer
                if answer.status_code not in _AGAIN or time.monotonic() > deadline:
                    self.failed.append(f"{method} {path}: {said}")
                    return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"{method} {path} got no answer: {said}")
            self.repeats += 1
            await asyncio.sleep(0.05)


class Load:
    """Customers who take over and pay old orders, one after the other, and look at what they have just written."""

    def __init__(self, client: Client, customers: int = 8) -> None:
        self.done = asyncio.Event()
        self.sent: list[OldOrder] = []
        self._client = client
        self._customers = customers
        self._orders = old_orders()

    async def run(self) -> None:
        """Send until `done` is set. An order that was begun is finished."""
        # All orders of one customer in the order of their dates: by one task.
        by_task: list[Iterator[OldOrder]] = [
            iter([order for order in self._orders if int(order.customer) % self._customers == n])
            for n in range(self._customers)
        ]
        async with asyncio.TaskGroup() as group:
            for orders in by_task:
                group.create_task(self._customer(orders))

    async def _customer(self, orders: Iterator[OldOrder]) -> None:
        while not self.done.is_set() and (order := next(orders, None)) is not None:
            self.sent.append(order)
            body = {
                **{"order_id": order.order_id, "customer_id": f"cdnow-{order.customer}", "cds": order.cds},
                **{"placed_on": order.placed_on.isoformat(), "total_cents": order.total_cents},
            }
            await self._client.send("take-over-order", body, f"{order.order_id}-place")
            token = await self._client.send("pay-order", {"order_id": order.order_id}, f"{order.order_id}-pay")
            seen = await self._client.ask("order-by-id", order_id=order.order_id, position=token)
            if seen is None or seen["status"] != "paid":
                self._client.failed.append(f"{order.order_id} is not seen as paid: {seen}")

    def totals(self) -> dict[str, int]:
        """What the shop must come to, computed from what was sent."""
        return {
            "orders": len(self.sent),
            "customers": len({order.customer for order in self.sent}),
            "cds": sum(order.cds for order in self.sent),
            "revenue_cents": sum(order.total_cents for order in self.sent),
            "free_orders": sum(order.total_cents == 0 for order in self.sent),
            "paid": len(self.sent),
        }


async def replace_each(services: list[Service], client: Client, report: list[str]) -> None:
    """End each process in turn, every other one by SIGKILL, and start it again, while commands go on."""
    for n, service in enumerate(services):
        how = signal.SIGKILL if n % 2 else signal.SIGTERM
        began = time.monotonic()
        before = client.commands
        code = await service.end(how)
        assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0), f"{service.roles}: {code}\n{service.said()}"
        await service.start()
        took = time.monotonic() - began
        report.append(f"{service.roles} {how.name}: away {took:.1f} s, {client.commands - before} commands meanwhile")
        await more_commands(client, 20)


async def more_commands(client: Client, count: int) -> None:
    """Wait until so many more commands are answered."""
    enough = client.commands + count
    async with asyncio.timeout(PATIENCE):
        while client.commands < enough:
            await client.answered.next.wait()
