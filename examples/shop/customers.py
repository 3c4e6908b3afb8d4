"""Customers: who may order."""

from typing import Annotated

from msgspec import Meta, Struct

from shop.events import CustomerId, CustomerRegistered, CustomerTakenOver
from twofold import DecisionModel, Module


class RegisterCustomer(Struct, frozen=True):
    """Open an account."""

    customer_id: CustomerId
    name: Annotated[str, Meta(min_length=1, max_length=200)]


class Customer(Struct, frozen=True):
    """Whether a customer is known."""

    known: bool = False

    def evolve(self, event: CustomerRegistered | CustomerTakenOver) -> "Customer":
        return Customer(known=True)


def register_customer(command: RegisterCustomer, customer: Customer) -> CustomerRegistered | None:
    return None if customer.known else CustomerRegistered(command.customer_id, command.name)


customers = Module(
    "customers",
    events=[CustomerRegistered, CustomerTakenOver],
    models=[DecisionModel(Customer, by=CustomerId)],
    decisions=[register_customer],
)
