-- An append may rest on appends before it in its batch: it was decided on their events, and is written only with them.
-- The arguments are the same as before, so nodes of before can call it. Why it is right: docs/decisions/0032-deciding-in-turn.md.

-- Appends a batch, in the one statement that calls it. Why it is right: docs/decisions/0015-postgresql-append.md.
--
-- Arrays with p_of, p_probe_of, … say to which append of the batch (from 1) an entry belongs; p_tag_of names an event (from 1).
-- p_known is the last position this process has seen, p_known_digest the beginning of the chain there: another one is there where
-- the log was replaced. p_digests are the digests of the events, from which the chain follows. `chains` has the chain at each event, null where
-- its append was refused.
-- Appends are checked in order, each as if those accepted before it were there: p_rival_of and p_rival are pairs of an append
-- and an earlier one, in order of the first. A positive number is one whose events break its conditions: it is refused if that one
-- is accepted. A negative number is one that it rests on: it is refused unless that one is accepted (0: one of an earlier call). p_row_version is what a row has afterwards (0: it
-- is gone), p_row_before the entry before it of the same row (from 1; 0: none). A probe without a tag is about its type alone;
-- p_wide are conditions on several tags, or on any type: [{"of", "after", "tags", "types" or null}, …]. The guards hold for every
-- append of the batch.
create or replace function {schema}.append(
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

    if moved or cardinality(refused) + cardinality(repeat_of) > 0 or 0 <= any (p_rival) then
        for i in 1 .. appends loop
            shift[i] := left_out;
            accepted[i] := not (i = any (repeat_of) or i = any (refused));
            while p_rival_of[rival] = i loop
                if accepted[i]
                   and (case when p_rival[rival] > 0 then accepted[p_rival[rival]]
                             else accepted[-p_rival[rival]] is not true end)
                then
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
