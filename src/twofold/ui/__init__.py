"""The console: one picture of the whole system with live numbers, from the public HTTP API only."""

from twofold.ui.console import console

__all__ = ["console"]
