"""The storefront: the records, and the form that orders them."""

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shop.orders import PlaceOrder
from shop.pages.forms import command_from, read_form
from shop.pages.rendering import Renderer
from shop.queries import RegisteredCustomers, StockLevels
from twofold import App, InvalidMessage, Rejected


class Storefront:
    """Shows the records on sale, and takes orders."""

    def __init__(self, app: App, renderer: Renderer) -> None:
        self._app = app
        self._renderer = renderer

    async def show(self, request: Request) -> Response:
        """The records on sale, with an empty order."""
        chosen = {"customer_id": request.query_params.get("customer", "")}
        return await self._form(chosen, position=request.query_params.get("position"))

    async def order(self, request: Request) -> Response:
        """Place the order and go to its page. If that fails, show the form again with its values and the problem.

        The order id is made with the form, so a form that is sent twice is one order.
        """
        fields = await read_form(request)
        if not fields.get("order_id"):
            raise InvalidMessage("The form has no order id. Please start again from the shop.", field="order_id")
        try:
            command = command_from(PlaceOrder, wanted(fields))
            receipt = await self._app.send(command, command_id=f"form-{command.order_id}")
        except Rejected as rejection:
            return await self._form(fields, problem=rejection.reason, status=422)
        except InvalidMessage as error:
            return await self._form(fields, problem=str(error), status=400)
        return RedirectResponse(f"/orders/{quote(command.order_id, safe='')}?position={receipt.token}", 303)

    async def _form(
        self, fields: dict[str, str], *, problem: str = "", status: int = 200, position: str | None = None
    ) -> Response:
        stock = (await self._app.ask(StockLevels(), position=position)).value
        customers = (await self._app.ask(RegisteredCustomers(size=200), position=position)).value
        return self._renderer.page(
            "storefront.html",
            status,
            products=stock.items,
            customers=customers.items,
            fields=fields,
            order_id=fields.get("order_id") or self._app.world.new_id(),
            new_customer_id=self._app.world.new_id(),
            problem=problem,
        )


def wanted(fields: dict[str, str]) -> dict[str, Any]:
    """The fields of the command, from those of the form: one line for each record with a quantity."""
    if not fields.get("customer_id"):
        raise InvalidMessage("Please choose who is ordering.", field="customer_id")
    quantities = {name.removeprefix("quantity-"): n for name, n in fields.items() if name.startswith("quantity-")}
    lines = [{"sku": sku, "quantity": whole_number(n)} for sku, n in quantities.items() if n not in ("", "0")]
    if not lines:
        raise InvalidMessage("Please choose at least one record.", field="lines")
    return {
        "order_id": fields["order_id"],
        "customer_id": fields["customer_id"],
        "lines": lines,
        "coupon": fields.get("coupon") or None,
    }


def whole_number(text: str) -> int:
    """A quantity, from its text."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= 1_000):
        raise InvalidMessage(f"“{text[:20]}” is not a quantity. Please order 1 to 1,000 pieces.", field="quantity")
    return int(text)
