"""In charge of options: each with its type, its default and a sentence. `TWOFOLD_<NAME>` in the environment sets it."""

import os
from typing import Annotated, get_type_hints

import msgspec

from twofold.errors import WiringError

Sentence = str


class Settings(msgspec.Struct, frozen=True):
    """Every option of an app. Pass `Settings(...)` to `App`, or set the environment variable of the same name."""

    write_store: Annotated[Sentence, msgspec.Meta(description="URL of the write store.")] = "sqlite:///data/log.db"
    read_store: Annotated[Sentence, msgspec.Meta(description="URL of the read store.")] = "sqlite:///data/views.db"
    batch_commands: Annotated[int, msgspec.Meta(ge=1, description="Commands that share one commit at most.")] = 512
    batch_bytes: Annotated[int, msgspec.Meta(ge=1, description="Bytes of events that share one commit at most.")] = (
        4_194_304
    )
    queue_commands: Annotated[
        int,
        msgspec.Meta(ge=1, description="Commands that may wait for a commit; beyond it they are told to come back."),
    ] = 10_000
    cached_folds: Annotated[int, msgspec.Meta(ge=0, description="Folds of decision models kept in memory.")] = 100_000
    conflict_retries: Annotated[
        int, msgspec.Meta(ge=0, description="Times a command is decided anew after a conflict.")
    ] = 100
    page_events: Annotated[int, msgspec.Meta(ge=1, description="Events a follower takes in one step.")] = 1_000
    poll_seconds: Annotated[float, msgspec.Meta(gt=0, description="Longest time a follower goes without looking.")] = (
        0.5
    )
    fold_retries: Annotated[
        int, msgspec.Meta(ge=0, description="Times a failing event is tried again before its key is parked.")
    ] = 3
    cached_rows: Annotated[
        int, msgspec.Meta(ge=0, description="Rows a follower keeps in memory, so that it need not load them again.")
    ] = 20_000
    catch_up_page_events: Annotated[
        int, msgspec.Meta(ge=1, description="Events a rebuild, or a follower far behind, takes in one step at most.")
    ] = 5_000
    lease_seconds: Annotated[
        float,
        msgspec.Meta(ge=0.2, description="Seconds without a sign of life after which a node's work is taken over."),
    ] = 10.0
    stall_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="Seconds after which a follower that does not move, while the log does, is reported."
        ),
    ] = 5.0
    serve_while_building: Annotated[
        bool,
        msgspec.Meta(description="Whether a node is ready before its read models have reached the head at its start."),
    ] = False
    wait_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, description="Longest time a query waits for a position, and a command for those it names."),
    ] = 5.0
    command_retention_days: Annotated[
        float,
        msgspec.Meta(gt=0, description="Days a command id is remembered; a repeat within them has no second effect."),
    ] = 7.0

    @classmethod
    def from_environment(cls, **given: object) -> "Settings":
        """Settings from `TWOFOLD_*` variables; what is `given` and not None wins. WiringError names a bad one."""
        known = get_type_hints(cls)
        found = {n: os.environ[f"TWOFOLD_{n.upper()}"] for n in known if f"TWOFOLD_{n.upper()}" in os.environ}
        values = found | {name: value for name, value in given.items() if value is not None}
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise WiringError(
                f"A setting does not fit: {error}. (Environment variables are TWOFOLD_<NAME>.)"
            ) from error
