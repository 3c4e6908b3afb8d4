"""The catalogue: products, their prices, and how many pieces of each are available."""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from shop.events import OrderCancelled, OrderPlaced, ProductAdded, ProductRestocked, Sku, quantity_of
from twofold import DecisionModel, Module, Rejected


class AddProduct(Struct, frozen=True):
    """Offer a product, at a price in cents."""

    sku: Sku
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    price_cents: Annotated[int, Meta(ge=0, le=100_000_00)]


class RestockProduct(Struct, frozen=True):
    """Put more pieces of a product on the shelf."""

    sku: Sku
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]


class Product(Struct, frozen=True):
    """What can be sold of one product: `available` is the stocked quantity less the ordered one."""

    sku: Sku = ""
    name: str = ""
    price_cents: int = 0
    offered: bool = False
    available: int = 0

    def evolve(self, event: ProductAdded | ProductRestocked | OrderPlaced | OrderCancelled) -> "Product":
        match event:
            case ProductAdded():
                return replace(self, name=event.name, price_cents=event.price_cents, offered=True)
            case ProductRestocked():
                return replace(self, available=self.available + event.quantity)
            case OrderPlaced():
                return replace(self, available=self.available - quantity_of(self.sku, event.lines))
            case OrderCancelled():
                return replace(self, available=self.available + quantity_of(self.sku, event.lines))


def add_product(command: AddProduct, product: Product) -> ProductAdded | None:
    if not product.offered:
        return ProductAdded(command.sku, command.name, command.price_cents)
    if (product.name, product.price_cents) != (command.name, command.price_cents):
        raise Rejected(
            "sku-taken", f"“{command.sku}” is {product.name} already. Choose another sku for the new product."
        )
    return None


def restock_product(command: RestockProduct, product: Product) -> ProductRestocked:
    if not product.offered:
        raise Rejected("unknown-product", f"There is no product “{command.sku}”. Add it before you stock it.")
    return ProductRestocked(command.sku, command.quantity)


catalogue = Module(
    "catalogue",
    events=[ProductAdded, ProductRestocked],
    models=[DecisionModel(Product, by=Sku)],
    decisions=[add_product, restock_product],
)
