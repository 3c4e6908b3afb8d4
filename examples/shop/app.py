"""The shop put together: `twofold serve shop:app` runs it.

`SHOP_OUTBOX` names the folder for mails (`data/outbox`), `SHOP_UNPAID_MINUTES` how long an order may stay
unpaid before it is cancelled (60). With `SHOP_KEYS`, a file of API keys, access is limited: see `RULES`.
"""

import os
from datetime import timedelta
from pathlib import Path

from shop.catalogue import catalogue
from shop.coupons import coupons
from shop.customers import RegisterCustomer, customers
from shop.orders import CancelOrder, PayOrder, PlaceOrder, orders
from shop.pages import pages
from shop.policies import policies
from shop.queries import queries
from shop.read_models import read_models
from twofold import ALL, ANYONE, Allow, ApiKeys, App, Module

RULES = [
    Allow(ANYONE, commands=[RegisterCustomer, PlaceOrder, PayOrder, CancelOrder], queries=ALL, metrics=True),
    Allow("staff", commands=ALL),
    Allow("operator", operate=ALL, inspect=True, read_log=True),
]
"""Who may do what, if access is limited. A real shop would know its customers and limit their queries by the actor."""


def modules(outbox: Path, cancel_unpaid_after: timedelta) -> list[Module]:
    """All modules of the shop, to build an app from."""
    return [catalogue, customers, coupons, orders, read_models, queries, policies(outbox, cancel_unpaid_after)]


def open_shop(*, write_store: str | None = None, read_store: str | None = None, outbox: Path | None = None) -> App:
    """The shop as an app. Arguments that are not given come from the environment."""
    minutes = float(os.environ.get("SHOP_UNPAID_MINUTES", "60"))
    folder = outbox or Path(os.environ.get("SHOP_OUTBOX", "data/outbox"))
    keys = os.environ.get("SHOP_KEYS")
    return App(
        *modules(folder, timedelta(minutes=minutes)),
        write_store=write_store,
        read_store=read_store,
        pages=pages,
        authenticate=[] if keys is None else [ApiKeys(keys)],
        access=None if keys is None else RULES,
    )


app = open_shop()
