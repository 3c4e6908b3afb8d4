"""docs/reference/cli.md documents every command, option and exit code, and nothing that does not exist."""

import re
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from twofold.cli import COMMANDS, twofold
from twofold.cli.output import Exit

REFERENCE = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text("utf-8")


def section(command: str) -> str:
    match = re.search(rf"^## twofold {command}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert match, f"docs/reference/cli.md has no section '## twofold {command}'"
    return match[1]


def command_called(name: str) -> click.Command:
    command: click.Command = import_module(f"twofold.cli.{name}_command").command
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_documented_options_of_a_command_are_those_it_has(name: str) -> None:
    command = command_called(name)
    parts = [*command.commands.values()] if isinstance(command, click.Group) else [command]
    options = {
        spelling
        for part in parts
        for parameter in part.params
        if isinstance(parameter, click.Option) and (part is command or parameter.opts != ["--json"])
        for spelling in parameter.opts
    }
    assert (
        set(re.findall(r"^\| `(-[^` ]+)", section(name), re.MULTILINE))
        | set(re.findall(r"^\| `[^`]+`, `(-[^` ]+)", section(name), re.MULTILINE))
        == options
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_options_that_are_documented_for_all(name: str) -> None:
    match = re.search(r"^## Options of every command\n(.*?)(?=^## )", REFERENCE, re.MULTILINE | re.DOTALL)
    assert match
    command = twofold.get_command(click.Context(twofold), name)
    assert command is not None
    common = {spelling for each in command.params[len(command_called(name).params) :] for spelling in each.opts}
    assert set(re.findall(r"^\| `(-[^` ]+)", match[1], re.MULTILINE)) == common != set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_options_have_help(name: str) -> None:
    command = command_called(name)
    assert command.help
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 100


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert re.findall(r"^## twofold (\S+)", REFERENCE, re.MULTILINE) == list(COMMANDS)


def test_every_exit_code_is_documented() -> None:
    assert re.findall(r"^\| (\d+) \|", REFERENCE, re.MULTILINE) == [str(int(code)) for code in Exit]
