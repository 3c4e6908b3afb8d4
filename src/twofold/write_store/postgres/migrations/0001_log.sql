-- One log is one schema. Times are microseconds since 1970 in UTC. Text is compared byte by byte, whatever the locale.

-- The one row all appends queue for. Its page has room for its next versions, so that no index is ever touched.
-- `cluster` and `timeline` are where it was written: on another one, the history behind it may have changed.
create table {schema}.log_head (
    only_row boolean primary key default true check (only_row),
    name     text    not null,
    epoch    int     not null,
    position bigint  not null,
    cluster  text    not null,
    timeline text    not null
) with (fillfactor = 10);

-- Why each epoch began, and up to which position the history before it is also the history after it.
create table {schema}.epochs (
    epoch     int         primary key,
    after     bigint      not null,
    cause     text        not null,
    raised_at timestamptz not null default now()
);

-- Gives every process that opens the log a number of its own.
create sequence {schema}.writers;

-- Type names are long and few: events carry their number.
create table {schema}.event_types (
    type_id int generated always as identity primary key,
    name    text collate "C" not null unique
);

-- `envelope` is the JSON of id, tags and metadata; `payload` the JSON of the event. Both are kept as they were written.
create table {schema}.events (
    position bigint primary key,
    type_id  int    not null,
    version  int    not null,
    payload  bytea  not null,
    envelope bytea  not null
);
create index events_by_type on {schema}.events (type_id, position);

create table {schema}.event_tags (
    tag      text collate "C" not null,
    type_id  int              not null,
    position bigint           not null,
    primary key (tag, type_id, position)
);

-- `nonce` names the call that wrote the row: a call that is sent again after a cut knows its own first attempt by it.
create table {schema}.commands (
    command_id   text collate "C" primary key,
    request_hash bytea  not null,
    position     bigint not null,
    count        int    not null,
    recorded_at  bigint not null,
    nonce        bigint not null
);
create index commands_by_age on {schema}.commands using brin (recorded_at) with (autosummarize = on);

create table {schema}.rows (
    space   text collate "C" not null,
    key     text collate "C" not null,
    value   bytea  not null,
    version bigint not null,
    primary key (space, key)
);

-- Roles that may write may only add. `retag` alone adds to what is there, and says so.
create function {schema}.refuse_change() returns trigger language plpgsql as $function$
begin
    if tg_op = 'UPDATE' and current_setting('twofold.retagging', true) = 'yes' then
        return null;
    end if;
    raise exception 'the log is never changed: % of % is refused', tg_op, tg_table_name using errcode = 'TF005';
end
$function$;

create trigger refuse_change before update or delete or truncate on {schema}.events
    for each statement execute function {schema}.refuse_change();
create trigger refuse_change before update or delete or truncate on {schema}.event_tags
    for each statement execute function {schema}.refuse_change();
create trigger refuse_change before update or delete or truncate on {schema}.epochs
    for each statement execute function {schema}.refuse_change();
create trigger refuse_change before delete or truncate on {schema}.log_head
    for each statement execute function {schema}.refuse_change();
