"""The console: one picture of the whole system with living numbers, drawn over the public HTTP API alone."""

from twofold.ui.console import console

__all__ = ["console"]
