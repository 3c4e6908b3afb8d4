-- What the log is used for. `place` is where the log is that a copy follows, or to which this log was moved. `settled` is the
-- position at which a copy has the commands and the rows too.
alter table {schema}.log_head
    add column use text not null default 'log' check (use in ('log', 'copy', 'moved')),
    add column place text not null default '',
    add column settled bigint;

-- For what was remembered last, when a copy is brought up to date.
create index commands_by_position on {schema}.commands using brin (position) with (autosummarize = on);

drop function {schema}.state;

-- Where the log is, what it is used for, and whether the server is still the one it was written on. On a standby it cannot have
-- moved.
create function {schema}.state(p_known bigint) returns table (
    name text, epoch int, at bigint, migrated int, moved text, epochs int[], epochs_after bigint[], chain bytea,
    known_chain bytea, use text, place text
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
           h.chain, (select e.chain from events e where e.position = p_known), h.use, h.place
      from log_head h
$function$;

-- Keep all other processes from appending until the transaction of the caller ends.
create function {schema}.close_log() returns int
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 300
as $function$
begin
    perform from log_head for update;
    return 1;
end
$function$;

-- End this log: it was moved to a place. Appends carry the epoch that a process knows, so those of all processes are refused
-- from now on; the new epoch is known to the log at that place only.
create function {schema}.seal(p_epoch int, p_place text) returns int
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
    insert into epochs (epoch, after, cause) values (head.epoch + 1, head.position, 'the log was moved to ' || p_place);
    update log_head set epoch = head.epoch + 1, use = 'moved', place = p_place;
    return head.epoch + 1;
end
$function$;
