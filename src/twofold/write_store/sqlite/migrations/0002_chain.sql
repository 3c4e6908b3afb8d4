-- The hash chain, and an envelope of a third of the size. The functions are those of `migrate.py`: they are known only to the
-- connection that migrates. `envelope` is the JSON of id and metadata from here on; `tags` the JSON of the tags.
alter table events add column tags blob not null default x'';
alter table events add column chain blob not null default x'';
alter table logs add column chain blob not null default x'';
update events set tags = envelope_tags(envelope), envelope = envelope_head(envelope);
with recursive linked (log_id, position, chain) as (
    select log_id, 0, chain_start(name) from logs
    union all
    select e.log_id, e.position, chain_link(linked.chain, y.name, e.version, e.envelope, e.payload)
      from linked
      join events as e on e.log_id = linked.log_id and e.position = linked.position + 1
      join event_types as y on y.log_id = e.log_id and y.type_id = e.type_id
)
update events set chain = linked.chain from linked
 where events.log_id = linked.log_id and events.position = linked.position;
update logs set chain = coalesce(
    (select e.chain from events as e where e.log_id = logs.log_id and e.position = logs.position), chain_start(name)
);
