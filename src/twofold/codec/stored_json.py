"""Whether stored bytes are JSON, so that they can be put into other JSON as they are."""

import msgspec

_skim = msgspec.json.Decoder(msgspec.Raw).decode


def json_problem(stored: bytes) -> str | None:
    """Why bytes are not JSON in UTF-8; None if they are."""
    try:
        _skim(stored)
        stored.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
    return None


def on_one_line(stored: bytes) -> bytes:
    """The same JSON without line ends: they may stand between its values, and end the line of a stream."""
    return msgspec.json.format(stored, indent=-1) if b"\n" in stored or b"\r" in stored else stored
