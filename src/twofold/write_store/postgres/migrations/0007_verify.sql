-- The rows of the log as they are stored, page by page, for the check of the log: see `raw_log.py`.

-- The head, the chain of the event there, an event beyond it, and the last epoch that began.
create function {schema}.raw_head() returns table (
    at bigint, chain bytea, epoch int, last_chain bytea, beyond bigint, begun int, log text
)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select h.position, h.chain, h.epoch, (select e.chain from events e where e.position = h.position),
           (select min(e.position) from events e where e.position > h.position), (select max(p.epoch) from epochs p), h.name
      from log_head h
$function$;

create function {schema}.raw_events(p_after bigint, p_limit bigint) returns table (
    at bigint, type_id int, type text, version int, payload bytea, envelope bytea, tags bytea, chain bytea
)
language sql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
as $function$
    select e.position, e.type_id, (select y.name from event_types y where y.type_id = e.type_id), e.version, e.payload,
           e.envelope, e.tags, e.chain
      from events e where e.position > p_after order by e.position limit p_limit
$function$;

-- Which of these entries, numbered from 1, the index lacks.
create function {schema}.raw_unindexed(p_tags text[], p_types int[], p_positions bigint[]) returns table (number int)
language sql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
    select w.n::int from unnest(p_tags, p_types, p_positions) with ordinality as w(tag, type_id, position, n)
     where not exists (
        select from event_tags t where t.tag = w.tag and t.type_id = w.type_id and t.position = w.position
     )
$function$;

-- Entries of the index after one, with the type and the tags of the event there.
create function {schema}.raw_index(p_tag text, p_type int, p_position bigint, p_limit bigint) returns table (
    tag text, type_id int, at bigint, stored_type int, stored_tags bytea
)
language sql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
    select t.tag, t.type_id, t.position, e.type_id, e.tags
      from (
        select * from event_tags i where (i.tag, i.type_id, i.position) > (p_tag, p_type, p_position)
         order by i.tag, i.type_id, i.position limit p_limit
      ) as t left join events e on e.position = t.position
     order by t.tag, t.type_id, t.position
$function$;

-- Remembered commands after one, with the envelopes of their first and last events. Not the ids that the store has made up.
create function {schema}.raw_commands(p_after text, p_limit bigint) returns table (
    command_id text, at bigint, events int, first bytea, last bytea
)
language sql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
    select c.command_id, c.position, c.count, f.envelope, l.envelope
      from (
        select * from commands k where k.command_id > p_after and k.command_id !~ '^~[0-9a-f]{16}[.][0-9]+$'
         order by k.command_id limit p_limit
      ) as c
      left join events f on f.position = c.position - c.count + 1
      left join events l on l.position = c.position
     order by c.command_id
$function$;

create function {schema}.raw_remembered(p_ids text[]) returns table (
    command_id text, at bigint, events int, recorded_at bigint
)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select c.command_id, c.position, c.count, c.recorded_at from commands c where c.command_id = any (p_ids)
$function$;

-- The chains at these positions, for reads that check what they return.
create function {schema}.raw_chains(p_positions bigint[]) returns table (at bigint, chain bytea)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$ select e.position, e.chain from events e where e.position = any (p_positions) $function$;
