"""Kill a served shop while its old orders are replayed over HTTP, and check afterwards what must be true.

The client is a process of its own from the server's view: it keeps its own history, synced to disk line by line, and
knows nothing of the server but the answers it got.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx

from shop.app import open_shop
from shop.cdnow import OldOrder, old_orders
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.domain.projection import BoundProjection

CALLERS = 16
_SERVE = "from twofold.cli import main; main()"


class History:
    """What the server acknowledged, on disk before the client goes on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+", encoding="utf-8")

    def note(self, command_id: str, receipt: dict[str, Any]) -> None:
        self._file.write(json.dumps([command_id, receipt["position"], receipt["events"], receipt["repeated"]]) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def receipts(self) -> dict[str, tuple[int, list[str]]]:
        """The receipt of each command; AssertionError where a command got two that differ."""
        self._file.seek(0)
        found: dict[str, tuple[int, list[str]]] = {}
        for line in self._file:
            command_id, position, events, _ = json.loads(line)
            first = found.setdefault(command_id, (position, events))
            assert first == (position, events), f"{command_id} got {first} and then {(position, events)}"
        return found

    def close(self) -> None:
        self._file.close()


class KilledShop:
    """The shop in `folder`, served by a process that is killed again and again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.history = History(folder / "history.jsonl")
        self.kills_under_load = 0
        self._folder = folder
        self._left = list(reversed(old_orders()))
        self._half: list[OldOrder] = []

    @property
    def urls(self) -> dict[str, str]:
        return {"write_store": f"sqlite:///{self._folder}/log.db", "read_store": f"sqlite:///{self._folder}/views.db"}

    async def live(self) -> None:
        """One life of the server: start, take orders, die at a random moment."""
        process, url = await asyncio.to_thread(self._start)
        try:
            async with httpx.AsyncClient(base_url=url, timeout=10) as client:
                callers = [asyncio.create_task(self._call(client)) for _ in range(CALLERS)]
                done, _ = await asyncio.wait(callers, timeout=self.random.uniform(0.0, 0.5))
                self.kills_under_load += not done
                process.send_signal(signal.SIGKILL)
                await asyncio.gather(*callers)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            assert process.stdout is not None
            process.stdout.close()

    def _start(self) -> tuple["subprocess.Popen[str]", str]:
        environment = os.environ | {"SHOP_OUTBOX": str(self._folder / "outbox"), "SHOP_UNPAID_MINUTES": "1000000"}
        stores = ["--write-store", self.urls["write_store"], "--read-store", self.urls["read_store"]]
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, "serve", "shop.app:app", "--port", "0", "--json", *stores],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            cwd=self._folder,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not (line and json.loads(line)["ok"]):
            process.stdout.close()
            raise AssertionError(f"the server did not start again; it ended with {process.wait()}, saying {line!r}")
        return process, json.loads(line)["data"]["url"]

    async def _call(self, client: httpx.AsyncClient) -> None:
        while self._left:
            order = self._half.pop() if self._half else self._left.pop()
            try:
                await self._send(client, "take-over-order", order.order_id, "place", take_over(order))
                await self._send(client, "pay-order", order.order_id, "pay", {"order_id": order.order_id})
            except httpx.TransportError:
                # What became of it is unknown; the next life is asked again.
                self._half.append(order)
                return

    async def _send(self, client: httpx.AsyncClient, name: str, order: str, step: str, body: dict[str, Any]) -> None:
        command_id = f"{order}-{step}"
        answer = await client.post(f"/commands/{name}", json=body, headers={"Idempotency-Key": command_id})
        assert answer.status_code == 200, f"{command_id}: {answer.status_code} {answer.text}"
        self.history.note(command_id, answer.json())

    async def check(self) -> int:
        """AssertionError where an acknowledged order is lost, doubled or not in the read models. How many there are."""
        app = open_shop(**self.urls, outbox=self._folder / "outbox")
        async with app:
            log = (await app.log(ALL_EVENTS, limit=10**9)).events
            check_log(log, self.history.receipts())
            await caught_up(app, len(log))
            for projection in app.wiring.projections.values():
                assert await rows_of(app, projection) == folded(app, projection, log), projection.name
            await self._check_totals(app, log)
        return len(self.history.receipts())

    async def _check_totals(self, app: App, log: list[RecordedEvent]) -> None:
        by_id = {order.order_id: order for order in old_orders()}
        placed = [by_id[command_id.removesuffix("-place")] for command_id in commands_of(log, "-place")]
        paid = [by_id[command_id.removesuffix("-pay")] for command_id in commands_of(log, "-pay")]
        totals = (await rows_of(app, app.wiring.projections["shop-totals"]))["shop"] if placed else None
        if totals is not None:
            assert totals.orders == len(placed)
            assert totals.customers == len({order.customer for order in placed})
            assert totals.cds == sum(order.cds for order in placed)
            assert (totals.paid, totals.revenue_cents) == (len(paid), sum(order.total_cents for order in paid))


def take_over(order: OldOrder) -> dict[str, Any]:
    """The body of the command that brings an old order in."""
    return {
        "order_id": order.order_id,
        "customer_id": f"cdnow-{order.customer}",
        "placed_on": order.placed_on.isoformat(),
        "cds": order.cds,
        "total_cents": order.total_cents,
    }


def commands_of(log: list[RecordedEvent], ending: str) -> list[str]:
    """The ids of the commands with this ending that wrote the log, each once."""
    ids = dict.fromkeys(event.metadata.command_id for event in log)
    return [command_id for command_id in ids if command_id.endswith(ending)]


def check_log(log: list[RecordedEvent], receipts: dict[str, tuple[int, list[str]]]) -> None:
    """AssertionError unless the log is gapless, holds nothing twice, and all that was acknowledged where it was."""
    assert [event.position for event in log] == list(range(1, len(log) + 1)), "positions have a gap"
    ids = [event.id for event in log]
    assert [event_id for event_id, count in Counter(ids).items() if count > 1] == [], "events are doubled"
    for command_id, (position, events) in receipts.items():
        there = ids[position - len(events) : position]
        assert there == events, f"{command_id} was acknowledged at {position} with {events}; the log has {there}"
    orders = Counter((event.type, tag) for event in log for tag in event.tags if tag.startswith("order:"))
    assert [each for each, count in orders.items() if count > 1] == [], "an order was placed or paid twice"


async def caught_up(app: App, head: int) -> None:
    """Wait until every follower has seen the log."""
    async with asyncio.timeout(60):
        while True:
            if all(each.position >= head for each in (await app.status()).followers):
                return
            await app.world.sleep(0.01)


async def rows_of(app: App, projection: BoundProjection) -> dict[str, Any]:
    """All rows of a read model, by the keys a fold of the log has for them."""
    running = app._running
    assert running is not None
    rows: dict[str, Any] = {}
    cursor: str | None = None
    async with running.read_store.snapshot() as snapshot:
        while True:
            found = await snapshot.find(app.models[projection.name], {}, limit=10_000, cursor=cursor)
            rows.update(found.rows)
            cursor = found.cursor
            if cursor is None:
                return rows


def folded(app: App, projection: BoundProjection, log: list[RecordedEvent]) -> dict[str, Any]:
    """What the read model must be: a plain fold of the log, made here."""
    rows: dict[str, Any] = {}
    for recorded in log:
        if recorded.type in projection.types:
            event = app.events.decode(recorded)
            for key in projection.keys(event):
                rows[key] = projection.fold(rows.get(key), event, key, recorded)
    return {key: row for key, row in rows.items() if row is not None}
