"""The raw rows of events in SQLite, with the tags that the index lacks."""

from collections.abc import Iterator

import apsw
import msgspec

from twofold.domain.envelope import StoredEnvelope
from twofold.domain.events import Position
from twofold.write_store.chain import chain_start
from twofold.write_store.verification import RawEvent

_decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode

_EVENTS = """
select e.position, y.name, e.version, e.payload, e.envelope, e.tags, e.chain, (
    select json_group_array(wanted.tag) from (
        select '' as tag union all
        select value from json_each(case when json_valid(cast(e.tags as text)) then cast(e.tags as text) else '[]' end)
    ) as wanted where not exists (
        select 1 from event_tags as t
         where t.log_id = e.log_id and t.tag = wanted.tag and t.type_id = e.type_id and t.position = e.position
    ) having count(*) > 0
)
from events as e left join event_types as y on y.log_id = e.log_id and y.type_id = e.type_id
where e.log_id = ? and e.position > ? order by e.position
"""


def raw_events(connection: apsw.Connection, log_id: int, after: Position) -> Iterator[RawEvent]:
    """The events after a position, in order."""
    rows = connection.execute(_EVENTS, (log_id, after))
    for position, type, version, payload, envelope, tags, chain, unindexed in rows:
        missing = _decode_tags(unindexed) if unindexed else ()
        yield RawEvent(position, type, version, payload, StoredEnvelope(envelope, tags), chain, missing)


def chain_at(connection: apsw.Connection, log_id: int, position: Position) -> bytes:
    """The chain that is stored at a position; empty where no event is."""
    if not position:
        return chain_start(str(connection.execute("select name from logs where log_id = ?", (log_id,)).get))
    row = connection.execute(
        "select chain from events where log_id = ? and position = ?", (log_id, position)
    ).fetchone()
    return row[0] if row else b""
