"""Policies: what the shop does by itself when something happens."""

import os
from datetime import timedelta
from pathlib import Path

import anyio.to_thread

from shop.events import OrderPaid, OrderPlaced, OrderShipped
from shop.orders import CancelUnpaidOrder
from twofold import Context, Later, Module, Policy


def cancel_unpaid_orders(after: timedelta) -> Policy:
    """Who does not pay in time frees what was reserved. Orders of the old shop were settled long ago."""

    async def cancel_when_unpaid(event: OrderPlaced) -> Later | None:
        return None if event.taken_over else Later(CancelUnpaidOrder(event.order_id), after)

    return Policy("cancel-unpaid-orders", cancel_when_unpaid)


def mail_customers(outbox: Path) -> Policy:
    """A mail when the money has come, and one when the parcel is on its way; here a mail is a file."""

    async def mail(event: OrderPaid | OrderShipped, context: Context) -> None:
        text = mail_about(event)
        if text is not None:
            await anyio.to_thread.run_sync(
                send_once, outbox, context.command_id, f"To: {event.customer_id}\n\n{text}\n"
            )

    return Policy("mail-customers", mail)


def mail_about(event: OrderPaid | OrderShipped) -> str | None:
    """What the customer is told; nothing about what the old shop was paid."""
    match event:
        case OrderPaid():
            dollars = f"{event.total_cents // 100}.{event.total_cents % 100:02}"
            thanks = f"Thank you! We have received {dollars} dollars for order {event.order_id}."
            return None if event.taken_over else thanks
        case OrderShipped():
            return f"Your order {event.order_id} is on its way."


def send_once(outbox: Path, mail_id: str, text: str) -> None:
    """Put a mail into the outbox, whole or not at all. The same id is the same mail, however often it is sent."""
    outbox.mkdir(parents=True, exist_ok=True)
    mail = outbox / f"{mail_id}.txt"
    if mail.exists():
        return
    draft = outbox / f".{mail_id}.draft"
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(mail)


def policies(outbox: Path, cancel_unpaid_after: timedelta) -> Module:
    """All of them, with where mails go and how long an order may stay unpaid."""
    return Module("policies", policies=[cancel_unpaid_orders(cancel_unpaid_after), mail_customers(outbox)])
