-- One log is one row of `logs`; everything else is keyed by it. Times are microseconds since 1970 in UTC.
create table logs (
    log_id   integer primary key,
    name     text    not null unique,
    epoch    integer not null,
    position integer not null,
    appends  integer not null default 0
) strict;

-- Why positions of one epoch may not be of another: it began after this position, and shares what is before.
create table epochs (
    log_id integer not null,
    epoch  integer not null,
    after  integer not null,
    primary key (log_id, epoch)
) strict, without rowid;

-- Type names are long and few: events carry their number.
create table event_types (
    log_id  integer not null,
    type_id integer not null,
    name    text    not null,
    primary key (log_id, type_id),
    unique (log_id, name)
) strict, without rowid;

-- `envelope` is the JSON of id, tags and metadata; `payload` the JSON of the event. Both are kept as they were written.
create table events (
    log_id   integer not null,
    position integer not null,
    type_id  integer not null,
    version  integer not null,
    payload  blob    not null,
    envelope blob    not null,
    primary key (log_id, position)
) strict, without rowid;

-- Where the events of a tag are. The empty tag stands for every event, so that a type alone is found the same way.
create table event_tags (
    log_id   integer not null,
    tag      text    not null,
    type_id  integer not null,
    position integer not null,
    primary key (log_id, tag, type_id, position)
) strict, without rowid;

-- In order of arrival, so that the oldest are pruned from the front.
create table commands (
    arrival      integer primary key,
    log_id       integer not null,
    command_id   text    not null,
    request_hash blob    not null,
    position     integer not null,
    count        integer not null,
    recorded_at  integer not null,
    unique (log_id, command_id)
) strict;

create table rows (
    log_id  integer not null,
    space   text    not null,
    key     text    not null,
    value   blob    not null,
    version integer not null,
    primary key (log_id, space, key)
) strict, without rowid;
