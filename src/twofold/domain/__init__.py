"""The pure part: messages, tags, decisions and projections. No I/O, no clock, no randomness."""
