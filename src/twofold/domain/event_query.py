"""Event queries: they select the events of a reader or a rule. The terms are those of the DCB specification."""

import msgspec

from twofold.domain.events import Position


class QueryItem(msgspec.Struct, frozen=True, gc=False):
    """Selects events of any of `types` (none given: every type) that carry all of `tags` (none given: any)."""

    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def matches(self, type: str, tags: frozenset[str]) -> bool:
        """Whether an event of this stored type with these tags is selected."""
        return (not self.types or type in self.types) and tags.issuperset(self.tags)


class EventQuery(msgspec.Struct, frozen=True, gc=False):
    """Selects the events that match any of `items`: without items nothing. `ALL_EVENTS` selects everything."""

    items: tuple[QueryItem, ...] = ()

    def matches(self, type: str, tags: frozenset[str]) -> bool:
        """Whether an event of this stored type with these tags is selected."""
        return any(item.matches(type, tags) for item in self.items)


ALL_EVENTS = EventQuery((QueryItem(),))
NO_EVENTS = EventQuery()


class AppendCondition(msgspec.Struct, frozen=True, gc=False):
    """Refuse an append if any event after `after` matches `query`: no event may be missed by a decision."""

    query: EventQuery
    after: Position = 0
