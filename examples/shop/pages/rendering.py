"""Rendering of pages: templates that escape all values, and formats for money, days and times."""

from datetime import date, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from shop.pages.cover import cover

TEMPLATES = Path(__file__).parent / "templates"


class Renderer:
    """Renders templates to responses."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(cover=cover, dollars=dollars, day=day, moment=moment, month=month)

    def page(self, template: str, status: int = 200, **values: object) -> HTMLResponse:
        """One template as a response, which must not be cached."""
        html = self._environment.get_template(template).render(**values)
        return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})


def dollars(cents: int) -> str:
    """-1999 → −$19.99"""
    whole, rest = divmod(abs(cents), 100)
    return f"{'−' if cents < 0 else ''}${whole:,}.{rest:02}"


def day(value: date) -> str:
    """3 March 1997"""
    return f"{value.day} {value:%B %Y}"


def month(value: date) -> str:
    """Mar 1997"""
    return f"{value:%b %Y}"


def moment(value: datetime) -> str:
    """3 March 1997, 14:05 UTC; a time of 00:00:00 is shown as a day, for orders of the old shop."""
    return (
        day(value) if (value.hour, value.minute, value.second) == (0, 0, 0) else f"{day(value)}, {value:%H:%M:%S} UTC"
    )
