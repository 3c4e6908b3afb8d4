-- Checksums of what the hash chain does not cover, and beside the head the sums of those of all commands and of all rows. What
-- they are: `checksums.py`. The functions are those of `migrate.py`.
alter table commands add column checksum integer not null default 0;
alter table rows add column checksum integer not null default 0;
alter table epochs add column checksum integer not null default 0;
alter table logs add column commands_checksum integer not null default 0;
alter table logs add column rows_checksum integer not null default 0;
update commands set checksum = command_checksum(command_id, request_hash, position, count, recorded_at);
update rows set checksum = row_checksum(space, key, version, value);
with recursive ordered (log_id, n, epoch, after) as (
    select log_id, row_number() over (partition by log_id order by epoch), epoch, after from epochs
), linked (log_id, n, epoch, checksum) as (
    select log_id, n, epoch, numbers_checksum(epoch, after, 0) from ordered where n = 1
    union all
    select o.log_id, o.n, o.epoch, numbers_checksum(o.epoch, o.after, linked.checksum)
      from linked join ordered as o on o.log_id = linked.log_id and o.n = linked.n + 1
)
update epochs set checksum = linked.checksum from linked
 where linked.log_id = epochs.log_id and linked.epoch = epochs.epoch;
update logs
   set commands_checksum = (select coalesce(sum(c.checksum), 0) from commands as c where c.log_id = logs.log_id),
       rows_checksum = (select coalesce(sum(r.checksum), 0) from rows as r where r.log_id = logs.log_id);
