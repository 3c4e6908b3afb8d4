"""In charge of event queries: which events a reader or a rule means. The words are those of the DCB specification."""

import msgspec

from twofold.domain.events import Position


class QueryItem(msgspec.Struct, frozen=True, gc=False):
    """Selects events of any of `types` (none given: every type) that carry all of `tags` (none given: any)."""

    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def matches(self, type: str, tags: frozenset[str]) -> bool:
        """Whether an event of this stored type with these tags is meant."""
        return (not self.types or type in self.types) and tags.issuperset(self.tags)


class EventQuery(msgspec.Struct, frozen=True, gc=False):
    """Selects the events that match any of `items`: without items nothing. `ALL_EVENTS` selects everything."""

    items: tuple[QueryItem, ...] = ()

    def matches(self, type: str, tags: frozenset[str]) -> bool:
        """Whether an event of this stored type with these tags is meant."""
        return any(item.matches(type, tags) for item in self.items)


ALL_EVENTS = EventQuery((QueryItem(),))
NO_EVENTS = EventQuery()


class AppendCondition(msgspec.Struct, frozen=True, gc=False):
    """Refuse if any event matches `query` after `after`: what a decision has not seen must not have happened."""

    query: EventQuery
    after: Position = 0
