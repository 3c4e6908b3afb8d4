"""The log: the source of truth. `port` says what a write store does; each other module is one that does it."""
