"""From the log to everything that follows it: read in order, apply, keep the checkpoint with the effect."""
