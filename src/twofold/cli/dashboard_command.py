"""`twofold dashboard`: write the dashboard for Grafana."""

from importlib.resources import files

import click

from twofold.cli.output import Exit


@click.command
def command() -> int:
    """Write the dashboard for Grafana, as JSON, to standard output.

    It has variables for the data source and the job, and can be provisioned from a file as it is.
    """
    click.echo((files("twofold.telemetry") / "dashboard.json").read_bytes(), nl=False)
    return Exit.OK
