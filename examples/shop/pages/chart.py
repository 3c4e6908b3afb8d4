"""A bar chart as SVG, drawn on the server."""

from markupsafe import Markup, escape
from msgspec import Struct

WIDE, NARROW, HEIGHT = 960, 380, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 8, 12, 34
_STEPS = (1, 2, 5)
_LABEL = 84


class Bar(Struct, frozen=True):
    """One bar: its label, height in cents, tooltip and link."""

    label: str
    cents: int
    title: str
    href: str | None = None


def bar_chart(bars: list[Bar], breadth: int = WIDE) -> Markup:
    """The bars over a scale in dollars, `breadth` pixels wide. Needs at least one bar."""
    step = scale_step(max(bar.cents for bar in bars))
    top = max(step, -(-max(bar.cents for bar in bars) // step) * step)
    height, width = HEIGHT - TOP - BOTTOM, (breadth - LEFT - RIGHT) / len(bars)
    parts = [_line(cents, TOP + height - height * cents / top, breadth - RIGHT) for cents in range(0, top + 1, step)]
    every = -(-len(bars) * _LABEL // (breadth - LEFT - RIGHT))
    for n, bar in enumerate(bars):
        x, tall = LEFT + n * width, height * max(0, bar.cents) / top
        parts.append(_bar(bar, x + width * 0.14, TOP + height - tall, min(width * 0.72, 60), tall))
        if n % every == 0:
            parts.append(
                Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                    x + min(width / 2, width * 0.14 + 30), HEIGHT - 10, bar.label
                )
            )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="Revenue in dollars">{}</svg>'
    ).format(breadth, HEIGHT, Markup("").join(parts))


def scale_step(most: int) -> int:
    """A round number of cents such that at most five lines reach `most`."""
    power = 100
    while True:
        for digit in _STEPS:
            if digit * power * 5 >= most:
                return digit * power
        power *= 10


def _line(cents: int, y: float, right: int) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
        '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">${5:,}</text>'
    ).format(LEFT, right, y, LEFT - 10, y + 4, cents // 100)


def _bar(bar: Bar, x: float, y: float, width: float, height: float) -> Markup:
    shape = Markup(
        '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="3"><title>{}</title></rect>'
    ).format(x, y, width, max(height, 1.5), bar.title)
    if bar.href is None:
        return shape
    return Markup('<a href="{}" aria-label="{}">{}</a>').format(escape(bar.href), bar.title, shape)
