-- The clock by which command ids age, one for all processes. Each moves it forward by the time that it has measured itself since
-- it last asked, so it is never ahead of real time, whatever the wall clocks of the processes and of the server say.
create table {schema}.command_clock (
    only_row boolean primary key default true check (only_row),
    at       bigint  not null
) with (fillfactor = 10);
insert into {schema}.command_clock (at) select coalesce(max(c.recorded_at), 0) from {schema}.commands c;

-- Move the clock forward to p_at, never back; its time afterwards. 0: it has not begun.
create function {schema}.advance_clock(p_at bigint) returns bigint
language sql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 2000
as $function$ update command_clock set at = greatest(at, p_at) returning at $function$;
