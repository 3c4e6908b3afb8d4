"""Twofold: CQRS and event sourcing. Decision models fold events to decide; read models fold events to answer."""

from twofold.access import ALL, ANYONE, LOGGED_IN, Allow
from twofold.access.api_keys import ApiKeys
from twofold.app import App
from twofold.domain.actor import Actor
from twofold.domain.decision import Context, DecisionModel
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery, QueryItem
from twofold.domain.events import Event, RecordedEvent
from twofold.domain.module import Module
from twofold.domain.policy import Later, Policy
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import (
    CommandIdReused,
    Conflict,
    FunctionFailed,
    GenerationChanged,
    InvalidMessage,
    NotAuthenticated,
    NotAuthorised,
    Refused,
    Rejected,
    TwofoldError,
    Unavailable,
    UndeclaredAccess,
    UnknownMessage,
    UnreadableEvent,
    WiringError,
)
from twofold.query_service.view import Page, View
from twofold.receipt import Answer, Receipt
from twofold.settings import Settings

__all__ = [
    "ALL",
    "ALL_EVENTS",
    "ANYONE",
    "LOGGED_IN",
    "Actor",
    "Allow",
    "Answer",
    "ApiKeys",
    "App",
    "AppendCondition",
    "CommandIdReused",
    "Conflict",
    "Context",
    "DecisionModel",
    "Event",
    "EventQuery",
    "FunctionFailed",
    "GenerationChanged",
    "InvalidMessage",
    "Later",
    "Metadata",
    "Module",
    "NotAuthenticated",
    "NotAuthorised",
    "Page",
    "Policy",
    "Projection",
    "QueryItem",
    "Receipt",
    "RecordedEvent",
    "Refused",
    "Rejected",
    "Settings",
    "Tag",
    "TwofoldError",
    "Unavailable",
    "UndeclaredAccess",
    "UnknownMessage",
    "UnreadableEvent",
    "View",
    "WiringError",
]
