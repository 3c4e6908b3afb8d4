"""`twofold key`: create, list and revoke API keys in the file that an app reads with `ApiKeys`."""

from pathlib import Path

import click

from twofold.access.api_keys import create_key, read_keys, revoke_key
from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, columns, emit, printable
from twofold.errors import WiringError
from twofold.world import RealWorld

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Manage the API keys in a FILE, which an app reads with `App(…, authenticate=[ApiKeys(FILE)])`.

    The file has salted hashes only. A running app notices a change within a second. Send a key as
    `Authorization: Bearer KEY`; this command line does so with the key in the environment variable TWOFOLD_TOKEN.
    """


@command.command("create")
@click.argument("file", type=_FILE)
@click.option("--name", required=True, help="Who the key is for: the actor in events and operators' records.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of the key. May be repeated.")
@click.option("--days", type=float, default=90.0, show_default=True, help="Days until the key expires.")
@click.option("--tenant", help="The tenant of the actor.")
@json_option
def create(file: Path, name: str, roles: tuple[str, ...], days: float, tenant: str | None, as_json: bool) -> int:
    """Create a key and print it. It is shown this once."""
    try:
        key = create_key(file, RealWorld(), name=name, roles=roles, days=days, tenant=tenant)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise WiringError(f"{file} cannot be written: {error.strerror}.") from error
    if as_json:
        emit({"key": key})
    else:
        click.echo(key)
    return Exit.OK


@command.command("list")
@click.argument("file", type=_FILE)
@json_option
def list_keys(file: Path, as_json: bool) -> int:
    """List the keys: who they are for, their roles, and until when they are valid."""
    keys = read_keys(file)
    if as_json:
        fields = ("id", "name", "roles", "tenant", "created", "expires")
        emit([{field: getattr(key, field) for field in fields} for key in keys])
        return Exit.OK
    now = RealWorld().now()
    rows = [["ID", "NAME", "ROLES", "TENANT", "EXPIRES"]]
    for key in keys:
        until = f"{key.expires:%Y-%m-%d %H:%M}{' (expired)' if key.expires <= now else ''}"
        rows.append([key.id, printable(key.name), printable(", ".join(key.roles)), printable(key.tenant or ""), until])
    click.echo("\n".join(columns(rows)) if keys else f"{file} has no keys.")
    return Exit.OK


@command.command("revoke")
@click.argument("file", type=_FILE)
@click.argument("id")
@json_option
def revoke(file: Path, id: str, as_json: bool) -> int:
    """Revoke the key with this ID. Running apps refuse it within a second."""
    try:
        key = revoke_key(file, id)
    except KeyError as error:
        raise click.UsageError(f"{file} has no key with the id '{id}'. `twofold key list` shows them.") from error
    except OSError as error:
        raise WiringError(f"{file} cannot be written: {error.strerror}.") from error
    if as_json:
        emit({"id": key.id, "name": key.name})
    else:
        click.echo(f"Revoked: {key.id} of {printable(key.name)}.")
    return Exit.OK
