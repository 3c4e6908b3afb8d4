-- Reserves the log for the transaction that calls it: until its end no other one appends. Then answers as `read` does, so the caller
-- knows all that was written before. Why it is right, and fair: docs/decisions/0039-nodes-take-turns.md.
--
-- Those who reserve queue in the order in which they ask: the advisory lock is granted in that order, a row lock is not. Its number is
-- the oid of the table of this log. Only its holder waits for the row, beside those who append without a reservation.
-- The server ends the transaction if nothing comes from the caller for p_idle milliseconds: a node that is paused blocks nobody for longer.
create function {schema}.reserve(
    p_idle int, p_limit bigint, p_all bigint, p_after bigint[], p_tags text[], p_types text[], p_wide jsonb, p_command text,
    p_known bigint
) returns table (at bigint, type_id int, version int, payload bytea, envelope bytea, tags bytea, chain bytea)
language plpgsql volatile security definer
set search_path = {schema}, pg_temp
set lock_timeout = 2000
as $function$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'reserve needs the isolation level read committed, not %', current_setting('transaction_isolation')
            using errcode = 'TF003';
    end if;
    perform set_config('idle_in_transaction_session_timeout', p_idle::text, true);
    -- Statements of their own: what the last holder has committed is visible to every statement after them.
    perform pg_advisory_xact_lock(1416589126, '{schema}.log_head'::regclass::oid::int);
    perform from log_head for update;
    return query select r.* from read(p_limit, p_all, p_after, p_tags, p_types, p_wide, p_command, p_known) as r;
end
$function$;
