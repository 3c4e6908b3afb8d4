"""Traces, metrics and trace ids in log records: names, what is counted, and how it is exported. It observes the parts
from outside; no part imports it."""
