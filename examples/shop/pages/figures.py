"""The pages with figures: stock and revenue."""

from itertools import groupby

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shop.catalogue import RestockProduct
from shop.pages.chart import NARROW, WIDE, Bar, bar_chart
from shop.pages.forms import command_from, read_form
from shop.pages.rendering import Renderer, day, dollars, month
from shop.queries import RevenueByDay, StockLevels, Totals
from shop.read_models import DayRevenue
from twofold import App, InvalidMessage

LATEST_DAYS = 14


class FigurePages:
    """Shows stock and revenue, and restocks products."""

    def __init__(self, app: App, renderer: Renderer) -> None:
        self._app = app
        self._renderer = renderer

    async def stock(self, request: Request) -> Response:
        """Every product with what is on the shelf, reserved, available and sold."""
        answer = await self._app.ask(StockLevels(), position=request.query_params.get("position"))
        return self._renderer.page("stock.html", page=answer.value, form_id=self._app.world.new_id())

    async def restock(self, request: Request) -> Response:
        """Restock a product. A form that is sent twice counts once."""
        fields = await read_form(request)
        command = command_from(RestockProduct, {name: fields.get(name, "") for name in ("sku", "quantity")})
        if not fields.get("form_id"):
            raise InvalidMessage("The form has no id. Please open the page again.", field="form_id")
        receipt = await self._app.send(command, command_id=f"form-{fields['form_id']}-{command.sku}")
        return RedirectResponse(f"/stock?position={receipt.token}", 303)

    async def revenue(self, request: Request) -> Response:
        """Revenue by month, or by day within the month asked for (`?month=1997-03`)."""
        position = request.query_params.get("position")
        totals = (await self._app.ask(Totals(), position=position)).value
        latest: list[DayRevenue] = (await self._app.ask(RevenueByDay(), position=position)).value.items
        wanted = request.query_params.get("month")
        days = [row for row in reversed(latest) if wanted is None or row.day.isoformat().startswith(f"{wanted[:7]}-")]
        bars = by_month(days) if wanted is None else by_day(days)
        shown = days[: -LATEST_DAYS - 1 : -1] if wanted is None else days[::-1]
        return self._renderer.page(
            "revenue.html",
            totals=totals,
            charts=[bar_chart(bars, breadth) for breadth in (WIDE, NARROW)] if bars else None,
            month=month(days[0].day) if wanted is not None and days else None,
            days=shown,
        )


def by_month(days: list[DayRevenue]) -> list[Bar]:
    """One bar for each month with revenue, linked to its days."""
    bars: list[Bar] = []
    for first, rows in groupby(days, key=lambda row: row.day.replace(day=1)):
        cents = sum(row.revenue_cents for row in rows)
        bars.append(Bar(month(first), cents, f"{month(first)}: {dollars(cents)}", f"/revenue?month={first:%Y-%m}"))
    return bars


def by_day(days: list[DayRevenue]) -> list[Bar]:
    """One bar for each day with revenue."""
    return [Bar(str(row.day.day), row.revenue_cents, f"{day(row.day)}: {dollars(row.revenue_cents)}") for row in days]
