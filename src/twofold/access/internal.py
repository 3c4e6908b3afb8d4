"""Internal messages: commands and queries that only policies and code send, and that are not on the wire."""

from collections.abc import Collection, Mapping

from twofold.errors import WiringError


def check_internal(internal: Collection[type], known: Collection[type]) -> None:
    """WiringError where a type that is listed as internal is no command and no query."""
    for message in internal:
        if message not in known:
            shown = getattr(message, "__name__", repr(message))
            raise WiringError(f"internal=[{shown}]: no decision takes it and no query function answers it.")


def without_internal(messages: Mapping[str, type], internal: Collection[type]) -> dict[str, type]:
    """The messages that callers can reach, by name."""
    return {name: kind for name, kind in messages.items() if kind not in internal}
