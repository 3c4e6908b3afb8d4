"""Messages as bytes: stored names, versions, upcasters, JSON, JSON Schema. No other package knows bytes."""

from twofold.codec.event_codec import EventCodec
from twofold.codec.message_codec import MessageCodec
from twofold.codec.request_decoder import RequestDecoder
from twofold.codec.row_codec import RowCodec

__all__ = ["EventCodec", "MessageCodec", "RequestDecoder", "RowCodec"]
