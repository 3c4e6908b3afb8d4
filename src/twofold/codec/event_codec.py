"""Events as bytes: encoding new ones, decoding stored ones of any version."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec
from msgspec import inspect

from twofold.codec.canonical import encode
from twofold.codec.json_types import parts
from twofold.codec.misfit_sentences import misfit_sentence
from twofold.domain.events import Event, NewEvent, RecordedEvent
from twofold.domain.tags import TagReader
from twofold.errors import InvalidMessage, Unavailable, UnreadableEvent, WiringError


class EventCodec:
    """Turns event objects into stored events and back. Built once from the events an app lists."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = {event.name: event for event in events}
        for event in self._events.values():
            refuse_types_without_json(event.type)
        self._stored = {e.type: (e.name, e.version, TagReader(e.type)) for e in self._events.values()}
        self._decoders: dict[tuple[str, int], Callable[[bytes], Any]] = {}

    def encode(self, event: object, command_id: str, index: int) -> NewEvent:
        """The stored form of the `index`-th event of a command. Raises what `written` raises."""
        return self.written(event, command_id, index)[0]

    def written(self, event: object, command_id: str, index: int) -> tuple[NewEvent, Any]:
        """The stored form of the `index`-th event of a command, and the event as it will be read.

        InvalidMessage where an id in it cannot be a tag, or where it could not be read back. TypeError where it is not
        an event.
        """
        stored = self._stored.get(type(event))
        if stored is None:
            raise TypeError(
                f"{event!r} is not an event that a module lists. A decision returns listed events, a list, or None."
            )
        name, version, reader = stored
        payload = encode(event)
        new = NewEvent(f"{command_id}.{index}", name, version, reader.tags(event), payload)
        # The log never changes, and one event that cannot be decoded stops all its readers.
        try:
            return new, (self._decoders.get((name, version)) or self._find_decoder(name, version))(payload)
        except msgspec.ValidationError as error:
            misfit = misfit_sentence(error)
            if "got `null`" in str(error):
                # JSON has no NaN and no infinity: they are written as null.
                raise InvalidMessage(
                    f"'{name}' holds a number that is not finite, and JSON has none ({misfit.about('it')})."
                ) from error
            raise InvalidMessage(
                f"'{name}' does not fit its own type and could not be read back ({misfit.about('it')}). Decide an "
                "event that fits."
            ) from error

    def decode(self, recorded: RecordedEvent) -> Any:
        """The event in its present shape, upcast where it was stored in an older one.

        Unavailable where the log holds a newer version or a type this process does not know: a newer process wrote it.
        UnreadableEvent where stored bytes do not fit the type, or an upcaster fails, whatever it raises.
        """
        key = recorded.type, recorded.version
        decode = self._decoders.get(key) or self._find_decoder(*key)
        try:
            return decode(recorded.payload)
        except BaseException as error:
            what = f"The '{recorded.type}' event (version {recorded.version}) at position {recorded.position}"
            raise UnreadableEvent(recorded.position, f"{what} cannot be read", error) from error

    def tags_of(self, recorded: RecordedEvent) -> tuple[str, ...]:
        """The tags the present code gives a stored event."""
        event = self.decode(recorded)
        return self._stored[type(event)][2].tags(event)

    def _find_decoder(self, name: str, version: int) -> Callable[[bytes], Any]:
        decoder = self._decoders.get((name, version))
        if decoder is None:
            decoder = self._decoders[name, version] = self._decoder(name, version)
        return decoder

    def _decoder(self, name: str, version: int) -> Callable[[bytes], Any]:
        event = self._events.get(name)
        if event is None or version > event.version:
            raise Unavailable(
                f"The log holds '{name}' version {version}, which this process does not know. Start it with newer code."
            )
        if version == event.version:
            return msgspec.json.Decoder(event.type).decode
        steps = [event.upcasters[v] for v in range(version, event.version)]

        def upcast(payload: bytes) -> Any:
            fields = msgspec.json.decode(payload)
            for step in steps:
                fields = step(fields)
                if not isinstance(cast("object", fields), dict):
                    raise TypeError(f"an upcaster returned {fields!r:.100}, not the fields of the event as a dict")
            return msgspec.convert(fields, event.type, str_keys=True)

        return upcast


def refuse_types_without_json(message: type) -> None:
    """WiringError where a field, however deep, is of a class that cannot be written as JSON and read back."""
    todo = [inspect.type_info(message)]
    seen: set[int] = set()
    while todo:
        kind = todo.pop()
        if isinstance(kind, inspect.CustomType):
            raise WiringError(
                f"{message.__qualname__} has a field of type {kind.cls.__qualname__}, which has no JSON form. Make "
                f"{kind.cls.__qualname__} a msgspec Struct or a dataclass, or use a plain type."
            )
        if id(kind) not in seen:
            seen.add(id(kind))
            todo += parts(kind)
