"""An outage: what a policy calls is away. The record that status and health show."""

import msgspec


class Outage(msgspec.Struct, frozen=True):
    """What a policy calls is away. `since` is in microseconds since 1970 in UTC, `error` the last one.

    `failures` counts the attempts that failed in a row, `keys` the keys that they were made for. `probe_seconds` is the
    time between the last failure and the next attempt. All events of `types` wait; if there are none, those of the keys
    that fail.
    """

    since: int
    error: str
    failures: int
    keys: int
    probe_seconds: float
    types: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong, and what happens next."""
        keys = "1 key" if self.keys == 1 else f"{self.keys} keys"
        attempts = "1 attempt" if self.failures == 1 else f"{self.failures} attempts in a row"
        waits = f"events of type {', '.join(self.types)} wait" if self.types else "it waits"
        return (
            f"{attempts} failed, for {keys}, so {waits}. Nothing of that is parked; the next attempt is "
            f"{self.probe_seconds:g} s after the last one. The last error is {self.error}"
        )
