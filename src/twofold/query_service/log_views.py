"""The live and inline projections of an app, and the views of their rows for one answer."""

from collections.abc import Iterable, Mapping

from twofold.codec import EventCodec
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.projection import BoundProjection
from twofold.query_service.inline_views import InlineView
from twofold.query_service.live_views import LiveView
from twofold.query_service.log_view import LogView
from twofold.write_store.inline_state import InlineProjection
from twofold.write_store.port import WriteStore


class LogViews:
    """The live and inline projections of an app."""

    def __init__(self, projections: Mapping[str, BoundProjection], events: EventCodec) -> None:
        self._events = events
        self._live = {name: bound for name, bound in projections.items() if bound.lifecycle == "live"}
        self._inline = {
            name: InlineProjection(bound) for name, bound in projections.items() if bound.lifecycle == "inline"
        }

    def __contains__(self, name: str) -> bool:
        return name in self._live or name in self._inline

    async def open(self, names: Iterable[str], log: WriteStore) -> dict[str, LogView]:
        """The views of those of these projections that read from `log`, at least as new as its present head."""
        ours = [name for name in names if name in self]
        if not ours:
            return {}
        end = await log.read(NO_EVENTS)
        return {
            name: LiveView(self._live[name], self._events, log, end)
            if name in self._live
            else InlineView(self._inline[name], log, end.head, end.digest)
            for name in ours
        }
