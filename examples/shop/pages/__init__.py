"""The pages of the shop: rendered on the server, updated live with JavaScript, complete without it."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from shop.pages.customers import CustomerPages
from shop.pages.figures import FigurePages
from shop.pages.orders import OrderPages
from shop.pages.problems import problem_pages
from shop.pages.rendering import Renderer
from shop.pages.storefront import Storefront
from twofold import App

STATIC = Path(__file__).parent / "static"


def pages(app: App) -> Starlette:
    """All pages of the shop, served at `/` by `twofold.http`, which adds security headers."""
    renderer = Renderer()
    storefront, orders = Storefront(app, renderer), OrderPages(app, renderer)
    customers, figures = CustomerPages(app, renderer), FigurePages(app, renderer)
    return Starlette(
        routes=[
            Route("/", storefront.show, methods=["GET"]),
            Route("/orders", storefront.order, methods=["POST"]),
            Route("/orders/{order_id:path}/pay", orders.pay, methods=["POST"]),
            Route("/orders/{order_id:path}/ship", orders.ship, methods=["POST"]),
            Route("/orders/{order_id:path}/cancel", orders.cancel, methods=["POST"]),
            Route("/orders/{order_id:path}", orders.show, methods=["GET"]),
            Route("/customers", customers.best, methods=["GET"]),
            Route("/customers", customers.register, methods=["POST"]),
            Route("/customers/{customer_id:path}", customers.show, methods=["GET"]),
            Route("/stock", figures.stock, methods=["GET"]),
            Route("/stock", figures.restock, methods=["POST"]),
            Route("/revenue", figures.revenue, methods=["GET"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers=problem_pages(renderer),
    )
