"""`twofold migrate`: create the schema of a log, or bring it up to date."""

import asyncio

import click

from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, emit
from twofold.cli.store_access import StoreUrls, write_store_option
from twofold.stores import migrate_write_store
from twofold.world import RealWorld


@click.command
@write_store_option
@click.option("--role", metavar="NAME", help="PostgreSQL: let this role run the app (append and read).")
@click.option("--dry-run", is_flag=True, help="Print the SQL and change nothing.")
@json_option
def command(write_store: str | None, role: str | None, dry_run: bool, as_json: bool) -> int:
    """Create the schema of a log in PostgreSQL or SQLite, or bring it up to date.

    PostgreSQL: run it before a new version of the app starts, as a role that may create schemas. Apps of the version
    before can run meanwhile. SQLite: stop the app that writes to the file first. An app that opens the file for writing
    migrates it by itself. It is safe to repeat.
    """
    url = StoreUrls(write_store).settings().write_store
    migration = asyncio.run(migrate_write_store(url, RealWorld(), role=role, dry_run=dry_run))
    if as_json:
        emit({"steps": list(migration.steps), "sql": migration.sql if dry_run else None})
    elif dry_run:
        click.echo(migration.sql, nl=False)
    else:
        click.echo("\n".join(f"applied {step}" for step in migration.steps) or "The log is up to date.")
    return Exit.OK
