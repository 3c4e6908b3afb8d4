"""Migrations of a log's schema: the numbered SQL files of an adapter, and the result of applying them."""

from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import NamedTuple

from twofold.world import World


class MigrationStep(NamedTuple):
    """One numbered SQL file, applied in one transaction."""

    number: int
    name: str
    sql: str


class MigrationResult(NamedTuple):
    """The names of the steps that were applied, or would be in a dry run, and the SQL of the whole migration."""

    steps: Sequence[str]
    sql: str


def migration_steps(folder: Traversable) -> list[MigrationStep]:
    """All steps in order. ValueError where the numbers of the files are not 1, 2, 3, …"""
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    steps: list[MigrationStep] = []
    for number, file in enumerate(files, 1):
        if int(file.name[:4]) != number:
            raise ValueError(f"The migration {file.name} should have the number {number}.")
        steps.append(MigrationStep(number, file.name.removesuffix(".sql"), file.read_text("utf-8")))
    return steps


def new_log_name(log: str, world: World) -> str:
    """The name of a new log: unique, so that positions of one log are not taken for positions of another."""
    # The end of an id is random, its beginning is the time.
    return f"{log}-{world.new_id()[-8:]}"
