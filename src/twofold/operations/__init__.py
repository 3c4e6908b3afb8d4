"""What an operator does to a log and its read models, beside or between the runs of an app."""
