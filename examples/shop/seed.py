"""The first data of the shop: a dozen records, a few customers, some coupons. Seeding again changes nothing."""

from shop.catalogue import AddProduct, RestockProduct
from shop.coupons import IssueCoupon
from shop.customers import RegisterCustomer
from twofold import App, EventQuery, QueryItem

RECORDS = [
    ("blue-hour", "The Blue Hour – Nora Lind Trio", 16_99, 40),
    ("paper-boats", "Paper Boats – Little Harbour", 14_50, 25),
    ("salt-and-pine", "Salt and Pine – Ada Moreau", 15_99, 30),
    ("night-ferry", "Night Ferry – The Lamplighters", 12_99, 18),
    ("slow-weather", "Slow Weather – Okoro & Hale", 17_49, 22),
    ("tin-sun", "Tin Sun – Velvet Antenna", 11_99, 35),
    ("seven-windows", "Seven Windows – Ilse Brandt", 18_99, 12),
    ("low-tide-radio", "Low Tide Radio – Marisol Vega", 13_99, 28),
    ("north-platform", "North Platform – Cargo Choir", 9_99, 50),
    ("glass-orchard", "Glass Orchard – Hana Mori", 19_99, 8),
    ("the-long-table", "The Long Table – Brass & Barley", 15_49, 16),
    ("first-snow-live", "First Snow (Live) – Nora Lind Trio", 21_99, 3),
]
CUSTOMERS = [
    ("ann", "Ann Okafor"),
    ("ben", "Ben Castellano"),
    ("chloe", "Chloé Martin"),
    ("dmitri", "Dmitri Volkov"),
    ("emi", "Emi Tanaka"),
]
COUPONS = [
    IssueCoupon("WELCOME10", percent_off=10),
    IssueCoupon("FIVER", cents_off=5_00),
    IssueCoupon("HALF", percent_off=50),
]


async def seed_catalogue(app: App) -> None:
    """Fill an empty shop. What exists already is not changed."""
    for sku, name, price_cents, stock in RECORDS:
        await app.send(AddProduct(sku, name, price_cents), command_id=f"seed-add-{sku}")
        if not await _stocked(app, sku):
            await app.send(RestockProduct(sku, stock), command_id=f"seed-restock-{sku}")
    for customer_id, name in CUSTOMERS:
        await app.send(RegisterCustomer(customer_id, name), command_id=f"seed-customer-{customer_id}")
    for coupon in COUPONS:
        await app.send(coupon, command_id=f"seed-coupon-{coupon.code}")


async def _stocked(app: App, sku: str) -> bool:
    """Whether a product was ever stocked. Command ids are remembered for days only, the log is permanent."""
    page = await app.log(EventQuery((QueryItem(("product-restocked",), (f"sku:{sku}",)),)), 0, 1)
    return bool(page.events)
