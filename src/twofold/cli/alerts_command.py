"""`twofold alerts`: write alert rules for Prometheus from what an app declares."""

import re

import click

from twofold.cli.app_loading import app_argument, load_app
from twofold.cli.output import Exit
from twofold.cli.store_access import StoreUrls
from twofold.errors import WiringError
from twofold.telemetry.alerts import alert_rules

_JOB = re.compile(r"[A-Za-z0-9_.:/-]+")


@click.command
@app_argument
@click.option("--job", default="twofold", show_default=True, help="The job that scrapes the app in Prometheus.")
def command(target: str, job: str) -> int:
    """Write alert rules for Prometheus to standard output.

    The rules come from the freshness objectives of the projections, and from what makes an app degraded or not ready.
    Write them again when these change. They are JSON, which Prometheus reads as YAML.
    """
    if not _JOB.fullmatch(job):
        raise WiringError(f"'{job}' cannot be the name of a job. Use letters, digits and _ . : / - only.")
    app = load_app(target, StoreUrls(None, None))
    click.echo(alert_rules(app.wiring, app.settings.stall_seconds, job), nl=False)
    return Exit.OK
