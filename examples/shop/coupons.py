"""Coupons: a discount on one order. Each works once."""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from shop.events import CouponCode, CouponIssued, OrderPlaced
from twofold import DecisionModel, Module, Rejected


class IssueCoupon(Struct, frozen=True):
    """Issue a coupon for a discount in percent or in cents."""

    code: CouponCode
    percent_off: Annotated[int, Meta(ge=0, le=100)] = 0
    cents_off: Annotated[int, Meta(ge=0, le=100_000_00)] = 0


class Coupon(Struct, frozen=True):
    """The discount of a coupon, and whether it is spent. It stays spent if its order is cancelled."""

    issued: bool = False
    spent: bool = False
    percent_off: int = 0
    cents_off: int = 0

    def evolve(self, event: CouponIssued | OrderPlaced) -> "Coupon":
        match event:
            case CouponIssued():
                return replace(self, issued=True, percent_off=event.percent_off, cents_off=event.cents_off)
            case OrderPlaced():
                return replace(self, spent=True)

    def discount(self, amount_cents: int) -> int:
        """The discount on an amount: never more than the amount, rounded down to a cent."""
        return min(amount_cents, self.cents_off + amount_cents * self.percent_off // 100)


def issue_coupon(command: IssueCoupon, coupon: Coupon) -> CouponIssued | None:
    if bool(command.percent_off) == bool(command.cents_off):
        raise Rejected("one-kind-of-discount", "A coupon takes either percent or cents off; give exactly one of them.")
    if not coupon.issued:
        return CouponIssued(command.code, command.percent_off, command.cents_off)
    if (coupon.percent_off, coupon.cents_off) != (command.percent_off, command.cents_off):
        raise Rejected("coupon-taken", f"“{command.code}” exists already, with another discount. Choose another code.")
    return None


coupons = Module(
    "coupons",
    events=[CouponIssued],
    models=[DecisionModel(Coupon, by=CouponCode)],
    decisions=[issue_coupon],
)
