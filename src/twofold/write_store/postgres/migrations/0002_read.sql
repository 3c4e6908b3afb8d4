-- Positions, in order, of the first events after one that carry all tags (any, if there are none) and are of one of the
-- types (any, if null). It looks from the tag with the fewest events, so that the cost follows the rarest tag and not the
-- log; tags are counted with a growing limit until one runs out, so that counting is no dearer than answering.
create function {schema}.matching(p_tags text[], p_types int[], p_after bigint, p_limit bigint) returns setof bigint
language plpgsql stable
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
declare
    types   int[] := coalesce(p_types, array(select type_id from {schema}.event_types));
    rarest  text := p_tags[1];
    depth   bigint := 16;
    counted bigint;
begin
    if cardinality(p_tags) = 0 then
        if p_types is null then
            return query select e.position from {schema}.events e where e.position > p_after order by 1 limit p_limit;
        else
            return query
                -- Written so that only the index by type has this order. Where one type is almost all of the log, the
                -- primary key looks as good to the planner, and a rare type would be looked for in the whole log.
                select n.position from unnest(p_types) as y(type_id) cross join lateral (
                    select e.position from {schema}.events e
                     where (e.type_id, e.position) > (y.type_id, p_after) and e.type_id <= y.type_id
                     order by e.type_id, e.position limit p_limit
                ) as n
                order by 1 limit p_limit;
        end if;
        return;
    end if;
    <<counting>>
    while cardinality(p_tags) > 1 loop
        foreach rarest in array p_tags loop
            select coalesce(sum(n.some), 0) into counted
              from unnest(types) as y(type_id) cross join lateral (
                select count(*) as some from (
                    select from {schema}.event_tags t
                     where t.tag = rarest and t.type_id = y.type_id and t.position > p_after limit depth
                ) as a
              ) as n;
            exit counting when counted < depth;
        end loop;
        depth := depth * 8;
    end loop;
    return query
        select n.position from unnest(types) as y(type_id) cross join lateral (
            select t.position from {schema}.event_tags t
             where t.tag = rarest and t.type_id = y.type_id and t.position > p_after
               and not exists (
                select from unnest(p_tags) as o(tag)
                 where o.tag <> rarest and not exists (
                    select from {schema}.event_tags x
                     where x.tag = o.tag and x.type_id = t.type_id and x.position = t.position
                )
            )
            order by 1 limit p_limit
        ) as n
        order by 1 limit p_limit;
end
$function$;

-- The head, what a command id came to, and the first events that match any of the items, all of one moment: STABLE, so every
-- statement inside sees the snapshot of the call. The first row is the head (type -1, the epoch as its version); a second of
-- type -2 is the command (position, count, request hash).
--
-- p_all: everything after that position. Else, one entry for each type of each item: p_after, p_tags (null: no tag), p_types.
-- p_wide: items with several tags, or of any type, as [{"after", "tags", "types" or null}, …].
create function {schema}.read(
    p_limit bigint, p_all bigint, p_after bigint[], p_tags text[], p_types text[], p_wide jsonb, p_command text
) returns table (at bigint, type_id int, version int, payload bytea, envelope bytea)
language plpgsql stable security definer
set search_path = {schema}, pg_temp
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query select h.position, -1, h.epoch, null::bytea, null::bytea from log_head h;
    if p_command is not null then
        return query
            select c.position, -2, c.count, c.request_hash, null::bytea from commands c where c.command_id = p_command;
    end if;
    if p_all is not null then
        return query
            select e.position, e.type_id, e.version, e.payload, e.envelope
              from events e where e.position > p_all order by e.position limit p_limit;
    elsif p_wide is not null or array_position(p_tags, null) is not null then
        return query
            select e.position, e.type_id, e.version, e.payload, e.envelope
              from events e
             where e.position = any (array(
                select n.position
                  from unnest(p_after, p_tags, p_types) as q(after, tag, type) join event_types y on y.name = q.type
                 cross join lateral matching(
                    case when q.tag is null then '{}' else array[q.tag] end, array[y.type_id], q.after, p_limit
                 ) as n(position)
                union
                select n.position
                  from jsonb_to_recordset(p_wide) as w(after bigint, tags text[], types text[])
                 cross join lateral matching(
                    w.tags,
                    case when w.types is not null then array(
                        select y.type_id from event_types y where y.name = any (w.types)
                    ) end,
                    w.after, p_limit
                 ) as n(position)
                order by 1 limit p_limit
              ))
             order by 1;
    elsif cardinality(p_types) > 0 then
        return query
            select e.position, e.type_id, e.version, e.payload, e.envelope
              from events e
             where e.position = any (array(
                select distinct n.position
                  from unnest(p_after, p_tags, p_types) as q(after, tag, type) join event_types y on y.name = q.type
                 cross join lateral (
                    select t.position from event_tags t
                     where t.tag = q.tag and t.type_id = y.type_id and t.position > q.after
                     order by t.position limit p_limit
                 ) as n
                order by 1 limit p_limit
              ))
             order by 1;
    end if;
end
$function$;

-- Rows of a space, all of one moment: those of p_keys, else (null) those behind p_after, in order. The first row is the head:
-- no key, the position as its version, and the epoch.
create function {schema}.rows_of(p_space text, p_keys text[], p_after text, p_limit bigint)
returns table (key text, value bytea, version bigint, epoch int)
language plpgsql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query select null::text, null::bytea, h.position, h.epoch from log_head h;
    if p_keys is not null then
        return query
            select r.key, r.value, r.version, null::int
              from unnest(p_keys) as wanted(key) join rows r on r.space = p_space and r.key = wanted.key limit p_limit;
    else
        return query
            select r.key, r.value, r.version, null::int
              from rows r
             where r.space = p_space and r.key >= coalesce(p_after, '') and r.key is distinct from p_after
             order by r.key limit p_limit;
    end if;
end
$function$;

create function {schema}.types() returns table (type_id int, name text)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$ select y.type_id, y.name from event_types y $function$;

create function {schema}.envelopes(p_positions bigint[]) returns table (at bigint, envelope bytea)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$ select e.position, e.envelope from events e where e.position = any (p_positions) order by 1 $function$;
