"""A command in, a receipt out: load, decide, append, retry."""

from twofold.command_service.handle import CommandService, Written

__all__ = ["CommandService", "Written"]
