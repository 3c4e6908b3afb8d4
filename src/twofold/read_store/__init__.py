"""Rows to answer from. `port` says what a read store does; each other module is one that does it."""
