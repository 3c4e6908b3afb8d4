-- The hash chain, and an envelope of a third of the size: the JSON of id and metadata as an array; the JSON of the tags is apart.
-- What the chain is: `chain.py`.
alter table {schema}.events add column tags bytea not null default '', add column chain bytea not null default '';
alter table {schema}.log_head add column chain bytea not null default '';

-- The chain at position 0 of a log.
create function {schema}.chain_start(p_name text) returns bytea language sql immutable
as $function$ select sha256(convert_to(p_name, 'UTF8')) $function$;

do $migration$
declare
    last bytea;
    event record;
begin
    perform set_config('twofold.retagging', 'yes', true);
    update {schema}.events e
       set tags = convert_to(replace((o.old -> 'tags')::text, '", "', '","'), 'UTF8'),
           envelope = convert_to(jsonb_build_array(
               o.old #> '{metadata,command_id}', o.old #> '{metadata,time}', o.old -> 'id',
               o.old #> '{metadata,correlation_id}', o.old #> '{metadata,causation_id}', o.old #> '{metadata,actor}'
           )::text, 'UTF8')
      from (select position, convert_from(envelope, 'UTF8')::jsonb as old from {schema}.events) as o
     where o.position = e.position;
    select {schema}.chain_start(h.name) into last from {schema}.log_head h;
    for event in
        select e.position, sha256(convert_to(concat_ws(
                   ' ', e.version, octet_length(convert_to(y.name, 'UTF8')), octet_length(e.envelope), y.name
               ), 'UTF8') || e.envelope || e.payload) as digest
          from {schema}.events e join {schema}.event_types y on y.type_id = e.type_id order by e.position
    loop
        last := sha256(last || event.digest);
        update {schema}.events e set chain = last where e.position = event.position;
    end loop;
    update {schema}.log_head set chain = last;
    perform set_config('twofold.retagging', 'no', true);
end
$migration$;

drop function {schema}.append;
drop function {schema}.read;
drop function {schema}.rows_of;
drop function {schema}.envelopes;
drop function {schema}.state;
drop function {schema}.retag;

-- The head, what a command id came to, and the first events that match any of the items, all of one moment: STABLE, so every
-- statement inside sees the snapshot of the call. The first row is the head (type -1, the epoch as its version, the
-- chain at p_known as its payload); a second of type -2 is the command (position, count, request hash).
--
-- p_all: everything after that position. Else, one entry for each type of each item: p_after, p_tags (null: no tag), p_types.
-- p_wide: items with several tags, or of any type, as [{"after", "tags", "types" or null}, …].
create function {schema}.read(
    p_limit bigint, p_all bigint, p_after bigint[], p_tags text[], p_types text[], p_wide jsonb, p_command text,
    p_known bigint
) returns table (at bigint, type_id int, version int, payload bytea, envelope bytea, tags bytea, chain bytea)
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
    return query
        select h.position, -1, h.epoch, (select e.chain from events e where e.position = p_known), null::bytea,
               null::bytea, h.chain
          from log_head h;
    if p_command is not null then
        return query
            select c.position, -2, c.count, c.request_hash, null::bytea, null::bytea,
                   coalesce(e.chain, (select {schema}.chain_start(h.name) from log_head h))
              from commands c left join events e on e.position = c.position
             where c.command_id = p_command;
    end if;
    if p_all is not null then
        return query
            select e.position, e.type_id, e.version, e.payload, e.envelope, e.tags, e.chain
              from events e where e.position > p_all order by e.position limit p_limit;
    elsif p_wide is not null or array_position(p_tags, null) is not null then
        return query
            select e.position, e.type_id, e.version, e.payload, e.envelope, e.tags, e.chain
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
            select e.position, e.type_id, e.version, e.payload, e.envelope, e.tags, e.chain
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
-- no key, its chain as its value, the position as its version, and the epoch.
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
    return query select null::text, h.chain, h.position, h.epoch from log_head h;
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

create function {schema}.tags_of(p_positions bigint[]) returns table (at bigint, tags bytea)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$ select e.position, e.tags from events e where e.position = any (p_positions) order by 1 $function$;

-- Appends a batch, in the one statement that calls it. Why it is right: docs/decisions/0015-postgresql-append.md.
--
-- Arrays with p_of, p_probe_of, … say to which append of the batch (from 1) an entry belongs; p_tag_of names an event (from 1).
-- p_known is the last position this process has seen, p_known_digest the beginning of the chain there: another one is there where
-- the log was replaced. p_digests are the digests of the events, from which the chain follows. `chains` has the chain at each event, null where
-- its append was refused.
-- Appends are checked in order, each as if those accepted before it were there: p_rival_of and p_rival are pairs of an append
-- and an earlier one whose events break its conditions, in order of both. p_row_version is what a row has afterwards (0: it
-- is gone), p_row_before the entry before it of the same row (from 1; 0: none). A probe without a tag is about its type alone;
-- p_wide are conditions on several tags, or on any type: [{"of", "after", "tags", "types" or null}, …]. The guards hold for every
-- append of the batch.
create function {schema}.append(
    p_epoch int, p_nonce bigint, p_known bigint, p_known_digest bytea,
    p_command_ids text[], p_request_hashes bytea[], p_times bigint[], p_counts int[],
    p_of int[], p_types int[], p_versions int[], p_payloads bytea[], p_envelopes bytea[],
    p_event_tags bytea[], p_digests bytea[],
    p_tag_of int[], p_tags text[],
    p_probe_of int[], p_probe_after bigint[], p_probe_tag text[], p_probe_type int[],
    p_rival_of int[], p_rival int[], p_wide jsonb,
    p_row_of int[], p_row_space text[], p_row_key text[], p_row_value bytea[], p_row_expected bigint[],
    p_row_version bigint[], p_row_before int[], p_guard_space text[], p_guard_key text[], p_guard_expected bigint[]
) returns table (
    nonce bigint, base bigint, base_chain bytea, chains bytea[], refused int[],
    repeat_of int[], repeat_hash bytea[], repeat_position bigint[], repeat_count int[], repeat_nonce bigint[],
    repeat_chain bytea[]
)
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set lock_timeout = 2000
as $function$
#variable_conflict use_column
declare
    -- Looked up before the lock is taken: it costs some microseconds.
    server   text := (select system_identifier::text from pg_control_system());
    head     {schema}.log_head;
    appends  int := cardinality(p_times);
    accepted boolean[] := array_fill(true, array[appends]);
    shift    int[] := array_fill(0, array[appends]);
    left_out int := 0;
    tags     int := cardinality(p_tags);
    rival    int := 1;
    entry    int := 1;
    first    int;
    there    bigint[];
    last     int[] := '{}';
    moved    boolean := false;
    written  bigint;
    linked   bytea;
    digest   bytea;
    number   int := 0;
begin
    -- Under a stricter level the statements below would not see what the last holder of the lock has committed.
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'append needs the isolation level read committed, not %', current_setting('transaction_isolation')
            using errcode = 'TF003';
    end if;
    -- Acknowledged means on disk, whatever the default of the role or of the server is.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;

    -- A statement of its own: what the last holder committed is visible to every statement after this one.
    select * into strict head from log_head for update;
    if head.timeline <> left(pg_walfile_name(pg_current_wal_lsn()), 8) or head.cluster <> server then
        raise exception 'this is another server than the epoch began on, and no new one has' using errcode = 'TF002';
    end if;
    if head.epoch <> p_epoch then
        raise exception 'the log is in epoch %, the append in epoch %', head.epoch, p_epoch using errcode = 'TF001';
    end if;
    if p_known > 0 then
        if p_known = head.position then
            linked := head.chain;
        else
            select e.chain into linked from events e where e.position = p_known;
        end if;
        if substring(linked from 1 for 8) is distinct from p_known_digest then
            raise exception 'the chain at position % is %, not %; the log ends at %', p_known,
                encode(substring(linked from 1 for 8), 'hex'), encode(p_known_digest, 'hex'), head.position
                using errcode = 'TF007';
        end if;
    end if;
    nonce := p_nonce;
    base := head.position;
    base_chain := head.chain;
    chains := '{}';

    select coalesce(array_agg(w.i::int), '{}'), array_agg(c.request_hash),
           array_agg(c.position), array_agg(c.count), array_agg(c.nonce),
           array_agg(coalesce(e.chain, chain_start(head.name)))
      into repeat_of, repeat_hash, repeat_position, repeat_count, repeat_nonce, repeat_chain
      from unnest(p_command_ids) with ordinality as w(id, i) join commands c on c.command_id = w.id
      left join events e on e.position = c.position;

    refused := array(
        select p.i from unnest(p_probe_of, p_probe_after, p_probe_tag, p_probe_type) as p(i, after, tag, type_id)
         cross join lateral (
            select from event_tags t
             where t.tag = p.tag and t.type_id = p.type_id and t.position > p.after limit 1
         ) as newer
    );
    if array_position(p_probe_tag, null) is not null then
        refused := refused || array(
            select p.i from unnest(p_probe_of, p_probe_after, p_probe_tag, p_probe_type) as p(i, after, tag, type_id)
             cross join lateral (
                -- Written so that only the index by type has this order: see `matching`.
                select from events e
                 where (e.type_id, e.position) > (p.type_id, p.after) and e.type_id <= p.type_id
                 order by e.type_id, e.position limit 1
             ) as newer
             where p.tag is null
        );
    end if;
    if p_wide is not null then
        refused := refused || array(
            select w."of" from jsonb_to_recordset(p_wide) as w("of" int, after bigint, tags text[], types int[])
             cross join lateral matching(w.tags, w.types, w.after, 1)
        );
    end if;
    if cardinality(p_row_of) > 0 then
        there := array(
            select coalesce(r.version, 0) from unnest(p_row_space, p_row_key) with ordinality as w(space, key, n)
              left join rows r on r.space = w.space and r.key = w.key
             order by w.n
        );
        -- Whether any row is not as it is expected to be, if all appends before it are accepted.
        moved := exists (
            select from unnest(p_row_before, p_row_expected, there) as w(before, expected, there)
             where case when w.before = 0 then w.there else p_row_version[w.before] end <> w.expected
        );
    end if;
    if exists (
        select from unnest(p_guard_space, p_guard_key, p_guard_expected) as g(space, key, expected)
          left join rows r on r.space = g.space and r.key = g.key
         where coalesce(r.version, 0) <> g.expected
    ) then
        refused := array(select generate_series(1, appends));
    end if;

    if moved or cardinality(refused) + cardinality(repeat_of) + cardinality(p_rival_of) > 0 then
        for i in 1 .. appends loop
            shift[i] := left_out;
            accepted[i] := not (i = any (repeat_of) or i = any (refused));
            while p_rival_of[rival] = i loop
                if accepted[i] and accepted[p_rival[rival]] then
                    accepted[i] := false;
                    refused := refused || i;
                end if;
                rival := rival + 1;
            end loop;
            -- `last` is for each entry the last one of its row, itself or before it, that is accepted.
            first := entry;
            while p_row_of[entry] = i loop
                last[entry] := case when p_row_before[entry] > 0 then last[p_row_before[entry]] else 0 end;
                if accepted[i] and p_row_expected[entry]
                   <> (case when last[entry] > 0 then p_row_version[last[entry]] else there[entry] end)
                then
                    accepted[i] := false;
                    refused := refused || i;
                end if;
                entry := entry + 1;
            end loop;
            if accepted[i] then
                for e in first .. entry - 1 loop
                    last[e] := e;
                end loop;
            end if;
            if not accepted[i] then
                left_out := left_out + p_counts[i];
            end if;
        end loop;
        select count(*) into tags from unnest(p_tag_of) as t(e) where accepted[p_of[t.e]];
    end if;

    if cardinality(p_of) > 0 then
        linked := head.chain;
        foreach digest in array p_digests loop
            number := number + 1;
            if accepted[p_of[number]] then
                linked := sha256(linked || digest);
                chains := array_append(chains, linked);
            else
                chains := array_append(chains, null);
            end if;
        end loop;
        insert into events (position, type_id, version, payload, envelope, tags, chain)
        select base + e.n - shift[e.i], e.type_id, e.version, e.payload, e.envelope, e.tags, e.chain
          from unnest(p_of, p_types, p_versions, p_payloads, p_envelopes, p_event_tags, chains) with ordinality
               as e(i, type_id, version, payload, envelope, tags, chain, n)
         where accepted[e.i];
        get diagnostics written = row_count;
        if written <> cardinality(p_of) - left_out then
            raise exception '% of % events were written', written, cardinality(p_of) - left_out using errcode = 'TF004';
        end if;
        insert into event_tags (tag, type_id, position)
        select t.tag, p_types[t.e], base + t.e - shift[p_of[t.e]]
          from unnest(p_tag_of, p_tags) as t(e, tag)
         where accepted[p_of[t.e]];
        get diagnostics written = row_count;
        if written <> tags then
            raise exception '% of % tags were written', written, tags using errcode = 'TF004';
        end if;
        update log_head h set position = base + cardinality(p_of) - left_out, chain = linked;
    end if;

    insert into commands (command_id, request_hash, position, count, recorded_at, nonce)
    select c.id, c.request_hash, base + sum(c.count) over (order by c.i), c.count, c.recorded_at, p_nonce
      from unnest(p_command_ids, p_request_hashes, p_times, p_counts) with ordinality
           as c(id, request_hash, recorded_at, count, i)
     where accepted[c.i];
    get diagnostics written = row_count;
    select count(*) - written into written from unnest(accepted) as a(yes) where a.yes;
    if written <> 0 then
        raise exception '% command ids were not written', written using errcode = 'TF004';
    end if;

    if cardinality(p_row_of) > 0 then
        with final as (
            select distinct on (w.space, w.key) w.space, w.key, w.value, w.version
              from unnest(p_row_of, p_row_space, p_row_key, p_row_value, p_row_version)
                   as w(i, space, key, value, version)
             where accepted[w.i]
             order by w.space, w.key, w.i desc
        ), gone as (
            delete from rows r using final f where f.value is null and r.space = f.space and r.key = f.key
        )
        insert into rows (space, key, value, version)
        select f.space, f.key, f.value, f.version from final f where f.value is not null
        on conflict (space, key) do update set value = excluded.value, version = excluded.version;
    end if;
    return next;
end
$function$;

-- Where the log is, and whether the server is still the one it was written on. On a standby it cannot have moved.
create function {schema}.state(p_known bigint) returns table (
    name text, epoch int, at bigint, migrated int, moved text, epochs int[], epochs_after bigint[], chain bytea,
    known_chain bytea
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
           array(select e.epoch from epochs e order by e.epoch), array(select e.after from epochs e order by e.epoch),
           h.chain, (select e.chain from events e where e.position = p_known)
      from log_head h
$function$;

-- Add tags to stored events: their tags as they were read, their tags with the new ones, and the new tags of each by its number in
-- p_positions. How many events were changed; fewer where one was changed meanwhile, and then the caller rolls back.
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
    update events e set tags = w.after
      from unnest(p_positions, p_before, p_after) as w(position, before, after)
     where e.position = w.position and e.tags = w.before;
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
