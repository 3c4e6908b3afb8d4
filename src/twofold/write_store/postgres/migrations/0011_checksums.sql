-- Checksums of what the hash chain does not cover, and beside the head the sums of those of all commands and of all rows. What they
-- are: `checksums.py`.

-- The first 32 bits of the SHA-256 of some bytes. Like the next ones STABLE, as `convert_to` is: else the planner would call them
-- instead of inserting what they compute.
create function {schema}.first_bits(p_data bytea) returns bigint language sql stable
as $function$ select ('x' || encode(substring(sha256(p_data) from 1 for 4), 'hex'))::bit(32)::bigint $function$;

create function {schema}.command_checksum(
    p_id text, p_hash bytea, p_position bigint, p_count int, p_recorded_at bigint, p_nonce bigint
) returns bigint language sql stable
as $function$
    select {schema}.first_bits(convert_to(
        p_position || ' ' || p_count || ' ' || p_recorded_at || ' ' || p_nonce || ' ' || octet_length(p_hash) || ' ', 'UTF8'
    ) || p_hash || convert_to(p_id, 'UTF8'))
$function$;

create function {schema}.row_checksum(p_space text, p_key text, p_version bigint, p_value bytea) returns bigint
language sql stable
as $function$
    select {schema}.first_bits(convert_to(
        p_version || ' ' || octet_length(convert_to(p_space, 'UTF8')) || ' ' || octet_length(convert_to(p_key, 'UTF8'))
        || ' ' || p_space || p_key, 'UTF8'
    ) || p_value)
$function$;

create function {schema}.numbers_checksum(variadic p_numbers bigint[]) returns bigint language sql stable
as $function$ select {schema}.first_bits(convert_to(array_to_string(p_numbers, ' '), 'UTF8')) $function$;

alter table {schema}.commands add column checksum bigint not null default 0;
alter table {schema}.rows add column checksum bigint not null default 0;
alter table {schema}.epochs add column checksum bigint not null default 0;
alter table {schema}.log_head
    add column commands_checksum bigint not null default 0, add column rows_checksum bigint not null default 0;
-- `forgotten` is the sum of the checksums of the command ids that were deleted: appends need not wait for that.
alter table {schema}.command_clock
    add column checksum bigint not null default 0, add column forgotten bigint not null default 0;

update {schema}.commands c
   set checksum = {schema}.command_checksum(c.command_id, c.request_hash, c.position, c.count, c.recorded_at, c.nonce);
update {schema}.rows r set checksum = {schema}.row_checksum(r.space, r.key, r.version, r.value);
update {schema}.log_head
   set commands_checksum = (select coalesce(sum(c.checksum), 0) from {schema}.commands c),
       rows_checksum = (select coalesce(sum(r.checksum), 0) from {schema}.rows r);
update {schema}.command_clock set checksum = {schema}.numbers_checksum(at);
alter table {schema}.epochs disable trigger refuse_change;
do $migration$
declare
    last bigint := 0;
    begun record;
begin
    for begun in select e.epoch, e.after from {schema}.epochs e order by e.epoch loop
        last := {schema}.numbers_checksum(begun.epoch, begun.after, last);
        update {schema}.epochs e set checksum = last where e.epoch = begun.epoch;
    end loop;
end
$migration$;
alter table {schema}.epochs enable trigger refuse_change;

-- The checksum of an epoch that begins now. Under the lock of the head.
create function {schema}.next_epoch_checksum(p_epoch int, p_after bigint) returns bigint language sql stable
as $function$
    select {schema}.numbers_checksum(
        p_epoch, p_after, coalesce((select e.checksum from {schema}.epochs e order by e.epoch desc limit 1), 0)
    )
$function$;

-- Begin the next epoch, if `p_from` is the present one: writers in that one are refused from now on.
create or replace function {schema}.raise_epoch(p_from int, p_cause text) returns int
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 2000
as $function$
declare
    head {schema}.log_head;
begin
    select * into strict head from log_head for update;
    if head.epoch = p_from then
        insert into epochs (epoch, after, cause, checksum)
        values (head.epoch + 1, head.position, p_cause, next_epoch_checksum(head.epoch + 1, head.position));
        update log_head
           set epoch = head.epoch + 1, timeline = left(pg_walfile_name(pg_current_wal_lsn()), 8),
               cluster = (select system_identifier::text from pg_control_system());
        return head.epoch + 1;
    end if;
    return head.epoch;
end
$function$;

-- End this log: it was moved to a place. Appends carry the epoch that a process knows, so those of all processes are refused
-- from now on; the new epoch is known to the log at that place only.
create or replace function {schema}.seal(p_epoch int, p_place text) returns int
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 2000
as $function$
declare
    head {schema}.log_head;
begin
    select * into strict head from log_head for update;
    if head.epoch <> p_epoch or head.use <> 'log' then
        raise exception 'the log is in epoch % and used as %', head.epoch, head.use using errcode = 'TF001';
    end if;
    -- Like an append, whatever the default of the role is.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    insert into epochs (epoch, after, cause, checksum)
    values (head.epoch + 1, head.position, 'the log was moved to ' || p_place,
            next_epoch_checksum(head.epoch + 1, head.position));
    update log_head set epoch = head.epoch + 1, use = 'moved', place = p_place;
    return head.epoch + 1;
end
$function$;

-- Move the clock forward to p_at, never back; its time afterwards. 0: it has not begun.
create or replace function {schema}.advance_clock(p_at bigint) returns bigint
language sql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 2000
as $function$
    update command_clock set at = greatest(at, p_at), checksum = numbers_checksum(greatest(at, p_at)) returning at
$function$;

-- Forget at most so many command ids that are older than p_before; how many were forgotten.
create or replace function {schema}.forget_commands(p_before bigint, p_limit int) returns bigint
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
as $function$
declare
    many bigint;
    gone bigint;
begin
    with deleted as (
        delete from commands
         where ctid = any (array(select c.ctid from commands c where c.recorded_at < p_before limit p_limit))
        returning checksum
    )
    select count(*), coalesce(sum(d.checksum), 0) into many, gone from deleted d;
    update command_clock set forgotten = forgotten + gone where gone > 0;
    return many;
end
$function$;

drop function {schema}.rows_of;
drop function {schema}.raw_commands;

-- Rows of a space, all of one moment: those of p_keys, else (null) those behind p_after, in order. The first row is the head:
-- no key, its chain as its value, the position as its version, and the epoch.
create function {schema}.rows_of(p_space text, p_keys text[], p_after text, p_limit bigint)
returns table (key text, value bytea, version bigint, epoch int, checksum bigint)
language plpgsql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
begin
    return query select null::text, h.chain, h.position, h.epoch, null::bigint from log_head h;
    if p_keys is not null then
        return query
            select r.key, r.value, r.version, null::int, r.checksum
              from unnest(p_keys) as wanted(key) join rows r on r.space = p_space and r.key = wanted.key limit p_limit;
    else
        return query
            select r.key, r.value, r.version, null::int, r.checksum
              from rows r
             where r.space = p_space and r.key >= coalesce(p_after, '') and r.key is distinct from p_after
             order by r.key limit p_limit;
    end if;
end
$function$;

-- Remembered commands after one, with the envelopes of their first and last events. Not the ids that the store has made up.
create function {schema}.raw_commands(p_after text, p_limit bigint) returns table (
    command_id text, at bigint, events int, first bytea, last bytea, request_hash bytea, recorded_at bigint, nonce bigint,
    checksum bigint
)
language sql stable security definer
set search_path = {schema}, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $function$
    select c.command_id, c.position, c.count, f.envelope, l.envelope, c.request_hash, c.recorded_at, c.nonce,
           c.checksum
      from (
        select * from commands k where k.command_id > p_after and k.command_id !~ '^~[0-9a-f]{16}[.][0-9]+$'
         order by k.command_id limit p_limit
      ) as c
      left join events f on f.position = c.position - c.count + 1
      left join events l on l.position = c.position
     order by c.command_id
$function$;

-- Rows after one, in order.
create function {schema}.raw_rows(p_space text, p_key text, p_limit bigint) returns table (
    space text, key text, version bigint, value bytea, checksum bigint
)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select r.space, r.key, r.version, r.value, r.checksum from rows r
     where (r.space, r.key) > (p_space, p_key) order by r.space, r.key limit p_limit
$function$;

-- The epochs that began, and the clock of command ids.
create function {schema}.raw_state() returns table (
    epochs int[], afters bigint[], checksums bigint[], clock bigint, clock_checksum bigint
)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select array(select e.epoch from epochs e order by e.epoch), array(select e.after from epochs e order by e.epoch),
           array(select e.checksum from epochs e order by e.epoch), c.at, c.checksum
      from command_clock c
$function$;

-- The sums of the checksums of all commands and of all rows, each with the one that is kept.
create function {schema}.raw_totals() returns table (
    commands bigint, expected_commands bigint, rows bigint, expected_rows bigint
)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select (select coalesce(sum(c.checksum), 0) from commands c)::bigint, h.commands_checksum - k.forgotten,
           (select coalesce(sum(r.checksum), 0) from rows r)::bigint, h.rows_checksum
      from log_head h cross join command_clock k
$function$;

-- What is remembered of these commands, to be compared with the checksum before a caller gets its first outcome again.
create function {schema}.raw_checksums(p_ids text[]) returns table (command_id text, sound boolean)
language sql stable security definer
set search_path = {schema}, pg_temp
as $function$
    select c.command_id, c.checksum = command_checksum(
               c.command_id, c.request_hash, c.position, c.count, c.recorded_at, c.nonce
           )
      from commands c where c.command_id = any (p_ids)
$function$;

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
    commands_added bigint := 0;
    rows_added     bigint := 0;
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

    linked := head.chain;
    if cardinality(p_of) > 0 then
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
    end if;

    with added as (
        insert into commands (command_id, request_hash, position, count, recorded_at, nonce, checksum)
        select c.id, c.request_hash, c.position, c.count, c.recorded_at, p_nonce,
               command_checksum(c.id, c.request_hash, c.position, c.count, c.recorded_at, p_nonce)
          from (
            select u.id, u.request_hash, (base + sum(u.count) over (order by u.i))::bigint as position, u.count,
                   u.recorded_at
              from unnest(p_command_ids, p_request_hashes, p_times, p_counts) with ordinality
                   as u(id, request_hash, recorded_at, count, i)
             where accepted[u.i]
          ) as c
        returning checksum
    )
    select count(*), coalesce(sum(a.checksum), 0) into written, commands_added from added a;
    select count(*) - written into written from unnest(accepted) as a(yes) where a.yes;
    if written <> 0 then
        raise exception '% command ids were not written', written using errcode = 'TF004';
    end if;

    if cardinality(p_row_of) > 0 then
        select sum(r.checksum) into rows_added
          from (select distinct w.space, w.key
                  from unnest(p_row_of, p_row_space, p_row_key) as w(i, space, key) where accepted[w.i]) as w
          join rows r on r.space = w.space and r.key = w.key;
        with final as (
            select distinct on (w.space, w.key) w.space, w.key, w.value, w.version
              from unnest(p_row_of, p_row_space, p_row_key, p_row_value, p_row_version)
                   as w(i, space, key, value, version)
             where accepted[w.i]
             order by w.space, w.key, w.i desc
        ), gone as (
            delete from rows r using final f where f.value is null and r.space = f.space and r.key = f.key
        ), added as (
            insert into rows (space, key, value, version, checksum)
            select f.space, f.key, f.value, f.version, row_checksum(f.space, f.key, f.version, f.value)
              from final f where f.value is not null
            on conflict (space, key)
            do update set value = excluded.value, version = excluded.version, checksum = excluded.checksum
            returning checksum
        )
        select coalesce(sum(a.checksum), 0) - coalesce(rows_added, 0) into rows_added from added a;
    end if;
    update log_head h
       set position = base + cardinality(p_of) - left_out, chain = linked,
           commands_checksum = h.commands_checksum + commands_added,
           rows_checksum = h.rows_checksum + rows_added;
    return next;
end
$function$;
