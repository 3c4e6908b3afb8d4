"""The schema of a log in PostgreSQL: numbered migrations, each in one transaction."""

import re
from importlib.resources import files
from typing import Any

import asyncpg

from twofold.errors import Unavailable, WiringError
from twofold.postgres_server import LOST, Connection, PostgresAddress, close, connect
from twofold.world import World
from twofold.write_store.migration import MigrationResult, MigrationStep, migration_steps, new_log_name
from twofold.write_store.postgres.address import address_of

_FOLDER = files("twofold.write_store.postgres").joinpath("migrations")
_PATIENCE = 10.0
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_$-]{0,62}")

_FIRST = """
create schema if not exists {schema};
create table if not exists {schema}.migrations (
    number     int         primary key,
    name       text        not null,
    applied_at timestamptz not null default now()
);
"""
# One migration at a time. A lock that is not granted soon is given up, so that appends do not queue behind it.
_ALONE = """
set local lock_timeout = '5s';
select pg_advisory_xact_lock(hashtext('twofold migrate'), hashtext('{schema}'));
"""
_HEAD = """
insert into {schema}.log_head (name, epoch, position, chain, cluster, timeline)
select {name}, 1, 0, {schema}.chain_start({name}), system_identifier::text,
       left(pg_walfile_name(pg_current_wal_lsn()), 8)
  from pg_control_system()
on conflict do nothing;
"""
_GRANTS = """
revoke all on all functions in schema {schema} from public;
grant usage on schema {schema} to {role};
grant select on all tables in schema {schema} to {role};
grant execute on function {functions} to {role};
"""
_GRANTED = """
select distinct g.grantee::regrole::name::text
  from pg_proc p cross join aclexplode(p.proacl) as g
 where p.pronamespace = to_regnamespace($1) and p.proname = 'append' and g.grantee not in (0, p.proowner)
"""
_FOR_THE_APP = """
append reserve read rows_of types state enter raise_epoch number_types advance_clock forget_commands tell close_log seal
raw_head raw_events raw_unindexed raw_index raw_commands raw_remembered raw_chains raw_rows raw_state raw_totals
raw_checksums
""".split()


def migrations(schema: str) -> list[MigrationStep]:
    """All steps in order, with the name of the schema filled in."""
    return [step._replace(sql=step.sql.replace("{schema}", schema)) for step in migration_steps(_FOLDER)]


async def migrate(url: str, world: World, *, role: str | None = None, dry_run: bool = False) -> MigrationResult:
    """Create the log's schema, or bring it up to date. Safe to repeat, also from several places, and while apps run.

    `role` gets the privileges an app needs: it may append and read, but neither update nor delete. WiringError where
    the database or the role does not exist or lacks privileges; Unavailable where the server cannot be reached.
    """
    address = address_of(url)
    if role is not None and not _ROLE.fullmatch(role):
        raise WiringError(f"{role!r} is not the name of a role. Use letters, digits and underscores.")
    try:
        connection = await connect(address, _PATIENCE)
    except (*LOST, asyncpg.PostgresError) as error:
        raise _refused(address, error) from error
    try:
        return await _migrate(connection, address.schema, new_log_name("main", world), role, dry_run)
    except (*LOST, asyncpg.PostgresError) as error:
        raise _refused(address, error) from error
    finally:
        await close(connection)


async def _migrate(connection: Connection, schema: str, name: str, role: str | None, dry_run: bool) -> MigrationResult:
    first = _FIRST.replace("{schema}", schema)
    exists = await connection.fetchval("select to_regclass($1) is not null", f"{schema}.migrations")
    if not exists and not dry_run:
        await _alone(connection, schema, first)
    roles = dict.fromkeys([role] if role is not None else [])
    if exists:
        # A migration drops functions, and with them the right to call them.
        roles |= dict.fromkeys(name for (name,) in await connection.fetch(_GRANTED, schema))
    scripts = [] if exists else [first]
    done: list[str] = []
    for step in migrations(schema):
        if exists or not dry_run:
            applied = await connection.fetchval(f"select max(number) from {schema}.migrations")
            if applied is not None and applied >= step.number:
                continue
        sql = f"{step.sql}\n{_entry(schema, step)}"
        scripts.append(f"begin;\n{sql}commit;\n")
        if dry_run or await _apply(connection, schema, step, sql):
            done.append(step.name)
    # Also where another call has applied the last step but has not added the head yet, or was interrupted before.
    headless = bool(done) or not await connection.fetchval(f"select exists (select from {schema}.log_head)")
    last = [_HEAD.replace("{schema}", schema).replace("{name}", f"'{name}'")] if headless else []
    functions = ", ".join(f"{schema}.{name}" for name in _FOR_THE_APP)
    grants = roles if done else [role] if role is not None else []
    last += [_GRANTS.format(schema=schema, role=f'"{name}"', functions=functions) for name in grants]
    if last and not dry_run:
        await _alone(connection, schema, "".join(last))
    return MigrationResult(done, "".join([*scripts, *last]))


async def _apply(connection: Connection, schema: str, step: MigrationStep, sql: str) -> bool:
    """Whether this call has applied the step. Another call may have applied it first."""
    async with connection.transaction():
        await connection.execute(_ALONE.replace("{schema}", schema))
        if await connection.fetchval(f"select true from {schema}.migrations where number = $1", step.number):
            return False
        await connection.execute(sql)
        return True


async def _alone(connection: Connection, schema: str, sql: str) -> None:
    async with connection.transaction():
        await connection.execute(_ALONE.replace("{schema}", schema) + sql)


def _entry(schema: str, step: MigrationStep) -> str:
    return f"insert into {schema}.migrations (number, name) values ({step.number}, '{step.name}');\n"


def _refused(address: PostgresAddress, error: BaseException) -> Exception:
    if isinstance(error, LOST):
        return Unavailable(f"PostgreSQL at {address.shown} cannot be reached: {error or type(error).__name__}")
    state: Any = getattr(error, "sqlstate", "")
    if state == "55P03":
        return Unavailable(f"Another session holds a lock on the log at {address.shown}. Try again in a moment.")
    return WiringError(f"The log at {address.shown} cannot be migrated: {error}")
