"""The pure heart: messages, tags, decisions and projections. No I/O, no clock, no chance."""
