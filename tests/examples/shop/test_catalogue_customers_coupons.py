"""The rules about products, customers and coupons."""

import pytest

from shop.catalogue import AddProduct, RestockProduct, add_product, catalogue, restock_product
from shop.coupons import IssueCoupon, coupons, issue_coupon
from shop.customers import RegisterCustomer, customers, register_customer
from shop.events import CouponIssued, CustomerRegistered, CustomerTakenOver, ProductAdded, ProductRestocked
from twofold.testing import spec

add = spec(add_product, *catalogue.models)
restock = spec(restock_product, *catalogue.models)
register = spec(register_customer, *customers.models)
issue = spec(issue_coupon, *coupons.models)

ALBUM = ProductAdded("a", "Album", 10_00)


def test_a_product_is_added() -> None:
    add.when(AddProduct("a", "Album", 10_00)).then(ALBUM)


@pytest.mark.parametrize("other", [AddProduct("a", "Ballads", 10_00), AddProduct("a", "Album", 9_00)])
def test_a_sku_stands_for_one_product(other: AddProduct) -> None:
    add.given(ALBUM).when(other).then_rejected("sku-taken")


def test_adding_a_product_twice_changes_nothing() -> None:
    add.given(ALBUM).when(AddProduct("a", "Album", 10_00)).then_nothing()


def test_a_product_is_restocked_each_time() -> None:
    restock.given(ALBUM, ProductRestocked("a", 3)).when(RestockProduct("a", 3)).then(ProductRestocked("a", 3))


def test_what_is_not_in_the_catalogue_cannot_be_restocked() -> None:
    restock.when(RestockProduct("a", 3)).then_rejected("unknown-product")


def test_a_customer_is_registered() -> None:
    register.when(RegisterCustomer("ann", "Ann")).then(CustomerRegistered("ann", "Ann"))


@pytest.mark.parametrize("known", [CustomerRegistered("ann", "Ann"), CustomerTakenOver("ann")])
def test_registering_a_known_customer_changes_nothing(known: object) -> None:
    register.given(known).when(RegisterCustomer("ann", "Anna")).then_nothing()


def test_a_coupon_is_issued() -> None:
    issue.when(IssueCoupon("TEN", percent_off=10)).then(CouponIssued("TEN", percent_off=10))


@pytest.mark.parametrize("command", [IssueCoupon("TEN"), IssueCoupon("TEN", 10, 10)])
def test_a_coupon_takes_one_kind_of_discount(command: IssueCoupon) -> None:
    issue.when(command).then_rejected("one-kind-of-discount")


def test_a_code_stands_for_one_coupon() -> None:
    issued = CouponIssued("TEN", percent_off=10)
    issue.given(issued).when(IssueCoupon("TEN", percent_off=20)).then_rejected("coupon-taken")


def test_issuing_a_coupon_twice_changes_nothing() -> None:
    issue.given(CouponIssued("TEN", cents_off=10)).when(IssueCoupon("TEN", cents_off=10)).then_nothing()
