"""The command service: a command in, a receipt out. Load, decide, append, retry."""

from twofold.command_service.handle import CommandService

__all__ = ["CommandService"]
