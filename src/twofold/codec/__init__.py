"""The only place that knows bytes: stored name ↔ type, versions, upcasters, JSON, JSON Schema."""

from twofold.codec.events import EventCodec
from twofold.codec.messages import MessageCodec
from twofold.codec.rows import RowCodec

__all__ = ["EventCodec", "MessageCodec", "RowCodec"]
