"""Checkpoints and parked keys: read, and given to other partitions."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

from twofold.errors import Conflict
from twofold.postgres_server import Connection
from twofold.read_store.parked_summary import stored_summary, summary_stored
from twofold.read_store.partition import Partition
from twofold.read_store.partition_state import PartitionState, checkpoints_of, repartitioned
from twofold.read_store.partition_state import progress_of as progress_of_states
from twofold.read_store.port import Change, Checkpoint, Parked, Progress
from twofold.read_store.postgres.rows import CHECKPOINTS, PARKED, PostgresTable
from twofold.read_store.postgres.rows_columns import Statement
from twofold.read_store.postgres.schema_names import key_of, qualified, short_key, unescaped

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Takes SQL and its arguments."""

_PROGRESS = """
select first, "end", position, log, updated, parked from {checkpoints} where rows_in = $1
"""
_IS_PARKED = """
select 1 from {parked} where rows_in = $1 and key = $2
"""
_PARKED_KEYS = """
select key, whole_key from {parked} where rows_in = $1
"""
_CHECKPOINTS = """
select rows_in, model, generation, first, "end", position, log, updated, epoch, parked from {checkpoints}
"""
_PARKED = """
select rows_in, key, whole_key, position, error, since, waiting, upto from {parked}
"""


class CheckpointRow(PartitionState, frozen=True):
    """The checkpoint of a partition, and for which columns the table of the rows was prepared last."""

    layout: str = ""


def checkpoint_statement(table: PostgresTable, change: Change, schema: str) -> Statement:
    """Selects the `CheckpointRow` of the partition of a change, or none where there is none."""
    return (
        f"select position, log, updated, epoch, layout from {qualified(schema, CHECKPOINTS)}"
        ' where rows_in = $1 and first = $2 and "end" = $3',
        [table.rows_in, change.partition.first, change.partition.end],
    )


def checkpoint_row(record: Sequence[Any]) -> CheckpointRow:
    """What `checkpoint_statement` selected. The summary of parked keys is left out."""
    position, log, updated, epoch, layout = record
    return CheckpointRow(position, log, updated, epoch, layout=layout)


async def progress_of(fetch: Fetch, schema: str, table: PostgresTable) -> Progress:
    return progress(await fetch(_sql(_PROGRESS, schema), table.rows_in))


def progress(records: Iterable[Sequence[Any]]) -> Progress:
    """The progress of a generation, from records of its checkpoints as `PostgresTable.lookup` selects them."""
    return progress_of_states(
        {
            Partition(first, end): PartitionState(position, unescaped(log), updated, parked=summary_stored(parked))
            for first, end, position, log, updated, parked, *_ in records
        }
    )


async def is_parked(fetch: Fetch, schema: str, table: PostgresTable, key: str) -> bool:
    return bool(await fetch(_sql(_IS_PARKED, schema), table.rows_in, short_key(key)))


async def all_checkpoints(fetch: Fetch, schema: str) -> list[Checkpoint]:
    if not (await fetch("select to_regclass($1) is not null", qualified(schema, PARKED)))[0][0]:
        return []
    parked: dict[str, list[Parked]] = {}
    for rows_in, *record in await fetch(_sql(_PARKED, schema)):
        parked.setdefault(rows_in, []).append(_parked(*record))
    states: dict[tuple[str, int, str], dict[Partition, PartitionState]] = {}
    for rows_in, model, generation, first, end, position, log, updated, epoch, summary in await fetch(
        _sql(_CHECKPOINTS, schema)
    ):
        state = PartitionState(position, unescaped(log), updated, epoch, summary_stored(summary))
        states.setdefault((unescaped(model), generation, rows_in), {})[Partition(first, end)] = state
    return checkpoints_of(
        (model, generation, own, parked.get(rows_in, ())) for (model, generation, rows_in), own in states.items()
    )


async def repartition(
    connection: Connection, table: PostgresTable, schema: str, old: Sequence[Partition], new: Sequence[Partition]
) -> Literal["done", "there", "refused"]:
    """Replace `old` partitions by `new` ones; "there" where that is already so, and none of the old ones is left.

    "refused" where one of `old` is missing, or they are not all at one position of one log.
    """
    checkpoints = qualified(schema, CHECKPOINTS)
    columns = 'rows_in, first, "end", model, generation, log, position, updated, epoch, layout, parked'
    async with connection.transaction():
        records = await connection.fetch(
            f"select {columns} from {checkpoints} where rows_in = $1 order by first for update", table.rows_in
        )
        present = {Partition(record["first"], record["end"]): record for record in records}
        if not present.keys() & set(old) and present.keys() >= set(new):
            return "there"
        keys = await connection.fetch(_sql(_PARKED_KEYS, schema), table.rows_in)
        known = {
            p: PartitionState(row["position"], row["log"], row["updated"], row["epoch"]) for p, row in present.items()
        }
        try:
            states = repartitioned(table.model, known, old, new, [key_of(*key) for key in keys])
        except Conflict:
            return "refused"
        one = present[old[0]]
        await connection.execute(
            f"delete from {checkpoints} where rows_in = $1 and first = any($2::int[])",
            table.rows_in,
            [p.first for p in old],
        )
        await connection.executemany(
            f"insert into {checkpoints} ({columns}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            [
                (*one[:1], p.first, p.end, *one[3:8], state.epoch, one["layout"], stored_summary(state.parked))
                for p, state in states.items()
            ],
        )
    return "done"


def _sql(template: str, schema: str) -> str:
    return template.format(checkpoints=qualified(schema, CHECKPOINTS), parked=qualified(schema, PARKED))


def _parked(key: str, whole: str | None, position: int, error: str, since: int, waiting: int, upto: int) -> Parked:
    return Parked(key_of(key, whole), position, unescaped(error), since, waiting, upto)
