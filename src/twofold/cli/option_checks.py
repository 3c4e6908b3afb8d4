"""Refusing options that would have no effect beside others of the same call."""

import click
from click.core import ParameterSource


def refuse_options(names: tuple[str, ...], because: str) -> None:
    """UsageError if one of these parameters of the present command is given. `because` says why it has no effect."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            given = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.metavar
            raise click.BadOptionUsage(str(given), f"{given} has no effect here: {because}. Leave it out.", context)
