"""A cover for each record: a small drawing made from its sku, so that no picture is needed."""

import hashlib
from collections.abc import Callable

from markupsafe import Markup

PALETTES = [
    ("#12324a", "#f2a65a", "#f6e7cb"),
    ("#5a2a4c", "#f08a8b", "#fbe3d6"),
    ("#1f4d3f", "#e8c468", "#f3f0dc"),
    ("#2d2a55", "#8fa8f0", "#f0e6ff"),
    ("#7a2e1f", "#f4b942", "#fdf0d5"),
    ("#14414a", "#59c3b5", "#e6f7f1"),
]

PERSON = b"1781"
"""With this value the records of the example get different covers."""


def cover(sku: str) -> Markup:
    """An SVG of 120 by 120 without any text; the same sku has the same cover."""
    seed = hashlib.blake2b(sku.encode(), digest_size=8, person=PERSON).digest()
    ground, bright, light = PALETTES[seed[0] % len(PALETTES)]
    motif = MOTIFS[seed[1] % len(MOTIFS)]
    return Markup(
        '<svg class="cover" viewBox="0 0 120 120" preserveAspectRatio="xMidYMid slice" aria-hidden="true">'
        f'<rect width="120" height="120" fill="{ground}"/>{motif(seed, bright, light)}</svg>'
    )


def _sun(seed: bytes, bright: str, light: str) -> str:
    x, r = 35 + seed[2] % 50, 22 + seed[3] % 14
    waves = "".join(
        f'<path d="M-10 {y} q 20 -9 40 0 t 40 0 t 40 0 t 40 0" fill="none" stroke="{light}" stroke-width="2.5"/>'
        for y in range(78, 120, 11)
    )
    return f'<circle cx="{x}" cy="48" r="{r}" fill="{bright}"/>{waves}'


def _rings(seed: bytes, bright: str, light: str) -> str:
    x, y = 40 + seed[2] % 40, 40 + seed[3] % 40
    return "".join(
        f'<circle cx="{x}" cy="{y}" r="{r}" fill="none" stroke="{bright if r % 16 else light}" stroke-width="4"/>'
        for r in range(8, 100, 8)
    )


def _windows(seed: bytes, bright: str, light: str) -> str:
    return "".join(
        f'<rect x="{14 + 24 * (n % 4)}" y="{14 + 24 * (n // 4)}" width="18" height="18" rx="2" '
        f'fill="{(bright, light)[seed[n % 8] >> (n // 8) & 1]}" opacity="{0.35 + (seed[n % 8] % 5) * 0.16:.2f}"/>'
        for n in range(16)
    )


def _stripes(seed: bytes, bright: str, light: str) -> str:
    return "".join(
        f'<path d="M{-40 + 18 * n + seed[2] % 10} 130 L{40 + 18 * n} -10" stroke="{(bright, light)[n % 2]}" '
        f'stroke-width="{2 + seed[n % 8] % 7}"/>'
        for n in range(7)
    )


def _hills(seed: bytes, bright: str, light: str) -> str:
    moon = f'<circle cx="{25 + seed[2] % 70}" cy="34" r="13" fill="{light}"/>'
    return moon + "".join(
        f'<path d="M-10 130 L-10 {70 + 18 * n} Q {20 + seed[3 + n] % 50} {35 + 20 * n + seed[n] % 18} '
        f'70 {72 + 16 * n} T 130 {62 + 18 * n} L130 130 Z" fill="{bright}" opacity="{0.4 + 0.3 * n:.1f}"/>'
        for n in range(3)
    )


def _moons(seed: bytes, bright: str, light: str) -> str:
    return "".join(
        f'<path d="M{20 + 27 * (n % 4)} {24 + 24 * (n // 4)} a 10 10 0 0 {seed[n % 8] >> (n // 8) & 1} 0 20 z" '
        f'fill="{(bright, light)[(seed[n % 8] >> (2 + n // 8)) & 1]}"/>'
        for n in range(16)
    )


MOTIFS: list[Callable[[bytes, str, str], str]] = [_sun, _rings, _windows, _stripes, _hills, _moons]
