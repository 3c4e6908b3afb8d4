"""The pages about customers: the best ones, and the history of each."""

from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shop.customers import RegisterCustomer
from shop.pages.forms import command_from, read_form
from shop.pages.rendering import Renderer
from shop.queries import BestCustomers, CustomerHistory
from twofold import App


class CustomerPages:
    """Shows customers and registers new ones."""

    def __init__(self, app: App, renderer: Renderer) -> None:
        self._app = app
        self._renderer = renderer

    async def best(self, request: Request) -> Response:
        """The customers who spent most, in pages."""
        after = request.query_params.get("after")
        answer = await self._app.ask(BestCustomers(size=20, after=after), position=request.query_params.get("position"))
        return self._renderer.page("customers.html", page=answer.value, continued=after is not None)

    async def show(self, request: Request) -> Response:
        """A customer and the latest orders."""
        asked = CustomerHistory(request.path_params["customer_id"], size=20, after=request.query_params.get("after"))
        answer = await self._app.ask(asked, position=request.query_params.get("position"))
        if answer.value.customer is None:
            raise HTTPException(404, "We do not know this customer.")
        return self._renderer.page(
            "customer.html", customer=answer.value.customer, page=answer.value.orders, continued=asked.after is not None
        )

    async def register(self, request: Request) -> Response:
        """Register a customer and go back to the shop."""
        fields = await read_form(request)
        command = command_from(RegisterCustomer, {name: fields.get(name, "") for name in ("customer_id", "name")})
        receipt = await self._app.send(command, command_id=f"form-{command.customer_id}")
        return RedirectResponse(f"/?customer={quote(command.customer_id, safe='')}&position={receipt.token}#order", 303)
