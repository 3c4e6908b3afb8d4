-- Where the log is, and whether the server is still the one it was written on. On a standby it cannot have moved.
create function {schema}.state() returns table (
    name text, epoch int, at bigint, migrated int, moved text, epochs int[], epochs_after bigint[]
)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select h.name, h.epoch, h.position, (select max(m.number) from migrations m),
           case when pg_is_in_recovery() then null
                when h.cluster <> (select system_identifier::text from pg_control_system())
                then 'it was restored into another cluster'
                when h.timeline <> left(pg_walfile_name(pg_current_wal_lsn()), 8)
                then 'a standby was promoted, or a backup was restored' end,
           array(select e.epoch from epochs e order by e.epoch), array(select e.after from epochs e order by e.epoch)
      from log_head h
$function$;

-- Wake the listeners. Never in the transaction that appends: notifying commits queue for one another.
create function {schema}.tell(p_channel text) returns int language sql volatile
as $function$ select 1 from pg_notify(p_channel, '') $function$;

-- A number for the process that calls, never given twice.
create function {schema}.enter() returns bigint language sql volatile security definer
set search_path = {schema}, pg_temp
as $function$ select nextval('writers') $function$;

-- Begin the next epoch, if `p_from` is the present one: writers in that one are refused from now on.
create function {schema}.raise_epoch(p_from int, p_cause text) returns int
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 2000
as $function$
declare
    head {schema}.log_head;
begin
    select * into strict head from log_head for update;
    if head.epoch = p_from then
        insert into epochs (epoch, after, cause) values (head.epoch + 1, head.position, p_cause);
        update log_head
           set epoch = head.epoch + 1, timeline = left(pg_walfile_name(pg_current_wal_lsn()), 8),
               cluster = (select system_identifier::text from pg_control_system());
        return head.epoch + 1;
    end if;
    return head.epoch;
end
$function$;

-- The numbers of these types, which get one if they have none yet.
create function {schema}.number_types(p_names text[]) returns table (type_id int, name text)
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
as $function$
#variable_conflict use_column
begin
    insert into event_types (name) select unnest(p_names) on conflict do nothing;
    return query select y.type_id, y.name from event_types y;
end
$function$;

-- Forget at most so many command ids that are older than p_before; how many were forgotten.
create function {schema}.forget_commands(p_before bigint, p_limit int) returns bigint
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
as $function$
declare
    forgotten bigint;
begin
    delete from commands where ctid = any (array(select c.ctid from commands c where c.recorded_at < p_before limit p_limit));
    get diagnostics forgotten = row_count;
    return forgotten;
end
$function$;

-- Add tags to stored events: the envelope as it was read, the envelope with them, and the tags of each by its number in
-- p_positions. How many envelopes were changed; fewer where one was changed meanwhile, and then the caller rolls back.
create function {schema}.retag(
    p_positions bigint[], p_before bytea[], p_after bytea[], p_tag_of int[], p_tags text[]
) returns bigint
language plpgsql volatile
set search_path = {schema}, pg_temp
as $function$
declare
    changed bigint;
begin
    perform set_config('twofold.retagging', 'yes', true);
    update events e set envelope = w.after
      from unnest(p_positions, p_before, p_after) as w(position, before, after)
     where e.position = w.position and e.envelope = w.before;
    get diagnostics changed = row_count;
    perform set_config('twofold.retagging', 'no', true);
    if changed <> cardinality(p_positions) then
        raise exception '% of % events were as expected', changed, cardinality(p_positions) using errcode = 'TF006';
    end if;
    insert into event_tags (tag, type_id, position)
    select t.tag, e.type_id, e.position
      from unnest(p_tag_of, p_tags) as t(i, tag) join events e on e.position = p_positions[t.i]
    on conflict do nothing;
    return changed;
end
$function$;
