"""The page of one order, which is updated live, and its actions: pay, ship, cancel."""

from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shop.orders import CancelOrder, PayOrder, ShipOrder
from shop.pages.forms import command_from, read_form
from shop.pages.rendering import Renderer
from shop.queries import OrderById
from twofold import App, Rejected


class OrderPages:
    """Shows an order; pays, ships and cancels it."""

    def __init__(self, app: App, renderer: Renderer) -> None:
        self._app = app
        self._renderer = renderer

    async def show(self, request: Request) -> Response:
        """The order, at least as new as the receipt in `position`."""
        return await self._page(request, position=request.query_params.get("position"))

    async def pay(self, request: Request) -> Response:
        """Pay it."""
        return await self._do(request, PayOrder(request.path_params["order_id"]))

    async def ship(self, request: Request) -> Response:
        """Ship it."""
        return await self._do(request, ShipOrder(request.path_params["order_id"]))

    async def cancel(self, request: Request) -> Response:
        """Cancel it, with the reason given."""
        fields = await read_form(request)
        asked = {"order_id": request.path_params["order_id"], "reason": fields.get("reason", "")}
        return await self._do(request, command_from(CancelOrder, asked))

    async def _do(self, request: Request, command: PayOrder | ShipOrder | CancelOrder) -> Response:
        try:
            receipt = await self._app.send(command)
        except Rejected as rejection:
            return await self._page(request, problem=rejection.reason, status=422)
        return RedirectResponse(f"/orders/{quote(command.order_id, safe='')}?position={receipt.token}", 303)

    async def _page(
        self, request: Request, *, position: str | None = None, problem: str = "", status: int = 200
    ) -> Response:
        order_id = request.path_params["order_id"]
        order: Any = (await self._app.ask(OrderById(order_id), position=position)).value
        if order is None:
            raise HTTPException(404, "There is no order with this id.")
        return self._renderer.page("order.html", status, order=order, problem=problem, steps=steps_ahead(order.status))


def steps_ahead(status: str) -> list[str]:
    """The steps that follow this status if the order is not cancelled."""
    way = ["placed", "paid", "shipped"]
    return way[way.index(status) + 1 :] if status in way else []
