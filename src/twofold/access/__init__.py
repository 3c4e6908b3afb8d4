"""Who asks, and what they may do: authenticators establish the actor of a request, rules say what a role allows."""

from twofold.access.rules import ALL, ANYONE, LOGGED_IN, AccessRules, Allow

__all__ = ["ALL", "ANYONE", "LOGGED_IN", "AccessRules", "Allow"]
