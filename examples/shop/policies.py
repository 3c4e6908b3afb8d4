"""The policies of the shop: reactions to events."""

import os
from datetime import timedelta
from pathlib import Path

import anyio.to_thread

from shop.events import OrderId, OrderPaid, OrderPlaced, OrderShipped
from shop.orders import CancelUnpaidOrder
from twofold import Context, Later, Module, Policy


def cancel_unpaid_orders(after: timedelta) -> Policy:
    """Cancel an order that is not paid in time. Orders of the old shop are exempt."""

    async def cancel_when_unpaid(event: OrderPlaced) -> Later | None:
        return None if event.taken_over else Later(CancelUnpaidOrder(event.order_id), after)

    return Policy("cancel-unpaid-orders", cancel_when_unpaid, key=OrderId)


def mail_customers(outbox: Path) -> Policy:
    """Send a mail when an order is paid, and one when it is shipped. Here a mail is a file."""

    async def mail(event: OrderPaid | OrderShipped, context: Context) -> None:
        text = mail_about(event)
        if text is not None:
            await anyio.to_thread.run_sync(
                send_once, outbox, context.command_id, f"To: {event.customer_id}\n\n{text}\n"
            )

    # The mails about one order in order, those about different orders at the same time.
    return Policy("mail-customers", mail, key=OrderId)


def mail_about(event: OrderPaid | OrderShipped) -> str | None:
    """The text of the mail; None for payments to the old shop."""
    match event:
        case OrderPaid():
            dollars = f"{event.total_cents // 100}.{event.total_cents % 100:02}"
            thanks = f"Thank you! We have received {dollars} dollars for order {event.order_id}."
            return None if event.taken_over else thanks
        case OrderShipped():
            return f"Your order {event.order_id} is on its way."


def send_once(outbox: Path, mail_id: str, text: str) -> None:
    """Write a mail to the outbox, atomically. A mail with the same id is sent once."""
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
    """All policies; `outbox` is the folder for mails."""
    return Module("policies", policies=[cancel_unpaid_orders(cancel_unpaid_after), mail_customers(outbox)])
