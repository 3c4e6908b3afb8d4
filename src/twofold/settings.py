"""The settings of an app, each with its type, default and description, read from code or the environment."""

from typing import Annotated, get_type_hints

import msgspec

from twofold.codec.misfit_sentences import misfit_sentence
from twofold.errors import WiringError
from twofold.roles import ALL_ROLES
from twofold.settings_sources import file_values, variables

Sentence = str


class Settings(msgspec.Struct, frozen=True):
    """All settings of an app. Pass `Settings(...)` to `App`, or set environment variables `TWOFOLD_<NAME>`, or a
    file: see `from_environment`."""

    write_store: Annotated[Sentence, msgspec.Meta(description="URL of the write store.")] = "sqlite:///data/log.db"
    read_store: Annotated[Sentence, msgspec.Meta(description="URL of the read store.")] = "sqlite:///data/views.db"
    roles: Annotated[
        Sentence, msgspec.Meta(description="What this process does: any of these roles, separated by commas.")
    ] = ALL_ROLES
    batch_commands: Annotated[int, msgspec.Meta(ge=1, description="Commands that share one commit at most.")] = 512
    batch_bytes: Annotated[int, msgspec.Meta(ge=1, description="Bytes of events that share one commit at most.")] = (
        4_194_304
    )
    queue_commands: Annotated[
        int, msgspec.Meta(ge=1, description="Commands that may wait for a commit. Further ones get `Unavailable`.")
    ] = 10_000
    queue_bytes: Annotated[
        int,
        msgspec.Meta(ge=1, description="Bytes of events that may wait for a commit. Further ones get `Unavailable`."),
    ] = 67_108_864
    event_bytes: Annotated[int, msgspec.Meta(ge=1, description="Bytes of one event at most.")] = 4_194_304
    command_events: Annotated[int, msgspec.Meta(ge=1, description="Events of one command at most.")] = 10_000
    command_bytes: Annotated[int, msgspec.Meta(ge=1, description="Bytes of the events of one command at most.")] = (
        16_777_216
    )
    cached_folds: Annotated[int, msgspec.Meta(ge=0, description="Folds of decision models kept in memory.")] = 100_000
    snapshot_events: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="Events folded for a decision after which a snapshot of the state is stored; 0: none are."
        ),
    ] = 1_000
    conflict_retries: Annotated[
        int, msgspec.Meta(ge=0, description="Times a command is decided again after a conflict.")
    ] = 100
    page_events: Annotated[int, msgspec.Meta(ge=1, description="Events a follower applies in one step.")] = 1_000
    poll_seconds: Annotated[float, msgspec.Meta(gt=0, description="Longest time between two looks for new events.")] = (
        0.5
    )
    fold_retries: Annotated[
        int, msgspec.Meta(ge=0, description="Times a failing event is retried before its key is parked.")
    ] = 3
    breaker_keys: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="Keys that may fail in a row before a projection stops; 0: as many as there are."
        ),
    ] = 100
    breaker_share: Annotated[
        float,
        msgspec.Meta(gt=0, le=1, description="Share of the last keys that may fail before a projection stops; 1: all."),
    ] = 0.5
    policy_concurrency: Annotated[
        int,
        msgspec.Meta(ge=1, description="Keys of a policy whose events are answered at the same time, on one node."),
    ] = 64
    policy_breaker_keys: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="Keys that may fail in a row for one type of events before that type waits; 0: none waits.",
        ),
    ] = 5
    cached_rows: Annotated[
        int, msgspec.Meta(ge=0, description="Rows a follower keeps in memory, so that it need not load them again.")
    ] = 20_000
    catch_up_page_events: Annotated[
        int, msgspec.Meta(ge=1, description="Events a rebuild, or a follower far behind, applies in one step.")
    ] = 5_000
    lease_seconds: Annotated[
        float, msgspec.Meta(ge=0.2, description="Seconds without a heartbeat after which other nodes take over.")
    ] = 10.0
    stall_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="Seconds without progress after which a follower that is behind is reported as stalled."
        ),
    ] = 5.0
    max_causation_depth: Annotated[
        int,
        msgspec.Meta(
            ge=1, description="Policies that may answer one another in a row. One that goes beyond it is paused."
        ),
    ] = 100
    serve_while_building: Annotated[
        bool,
        msgspec.Meta(description="Whether a node is ready before its read models have reached the head of its start."),
    ] = False
    wait_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, description="Longest time a query waits for a position, or a command for its `wait_for`."),
    ] = 5.0
    trace_share: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1,
            description="Share of the requests, commands and queries that belong to no trace which begin one, "
            "where OpenTelemetry is configured.",
        ),
    ] = 1.0
    command_retention_days: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="Days a command id is remembered at least: real time in which the log is in use.",
        ),
    ] = 7.0

    check_reads: Annotated[
        bool,
        msgspec.Meta(
            description="Whether every event that is read is checked against the chain, so that none is wrong."
        ),
    ] = False
    verify_events_per_second: Annotated[
        int,
        msgspec.Meta(ge=0, description="Events a second that `serve` verifies in the background at most; 0: none."),
    ] = 500

    @classmethod
    def from_environment(cls, **given: object) -> "Settings":
        """Settings from `TWOFOLD_*` variables, and below them from `twofold.toml` or `[tool.twofold]` of
        `pyproject.toml` in the current folder; a `given` value that is not None wins. WiringError names a bad one."""
        known = get_type_hints(cls)
        variables_set = {name: value for name, value in variables(known).items() if name in known}
        from_file, where = file_values(known)
        values = {name: value for name, value in from_file.items() if name in known}
        values |= variables_set | {name: value for name, value in given.items() if value is not None}
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            sentence = misfit_sentence(error)
            source = ""
            if sentence.field in variables_set:
                source = f" (in the environment TWOFOLD_{sentence.field.upper()})"
            elif sentence.field in from_file:
                source = f" (in {where})"
            raise WiringError(f"The setting {sentence.field}{source} {sentence.problem}.") from error
