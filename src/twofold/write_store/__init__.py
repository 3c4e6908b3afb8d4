"""The log: the source of truth. `port` says what a write store does; the adapters do it."""
