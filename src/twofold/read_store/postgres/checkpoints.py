"""Checkpoints and parked keys: read, and given to other partitions."""

from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any, Literal

from twofold.postgres_server import Connection
from twofold.read_store.partition import Partition
from twofold.read_store.partition_state import PartitionState, checkpoints_of
from twofold.read_store.port import Change, Checkpoint, Parked, Progress
from twofold.read_store.postgres.rows import CHECKPOINTS, PARKED, PostgresTable
from twofold.read_store.postgres.rows_columns import Statement
from twofold.read_store.postgres.schema_names import key_of, qualified, unescaped

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Takes SQL and its arguments."""

_PROGRESS = """
select lowest.position, lowest.log, lowest.updated,
       key, whole_key, parked.position, error, since, waiting, upto
from (select position, log, max(updated) over () as updated
      from {checkpoints} where rows_in = $1 order by position limit 1) lowest
left join {parked} parked on rows_in = $1
"""
_CHECKPOINTS = """
select rows_in, model, generation, first, "end", position, log, updated, epoch from {checkpoints}
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


async def progress_of(fetch: Fetch, schema: str, table: PostgresTable) -> Progress:
    records = await fetch(_sql(_PROGRESS, schema), table.rows_in)
    if not records:
        return Progress(0, "", 0)
    position, log, updated = records[0][:3]
    parked = [_parked(*record[3:]) for record in records if record[3] is not None]
    return Progress(position, unescaped(log), updated, tuple(sorted(parked, key=attrgetter("key"))))


async def all_checkpoints(fetch: Fetch, schema: str) -> list[Checkpoint]:
    if not (await fetch("select to_regclass($1) is not null", qualified(schema, PARKED)))[0][0]:
        return []
    parked: dict[str, list[Parked]] = {}
    for rows_in, *record in await fetch(_sql(_PARKED, schema)):
        parked.setdefault(rows_in, []).append(_parked(*record))
    states: dict[tuple[str, int, str], dict[Partition, PartitionState]] = {}
    for rows_in, model, generation, first, end, position, log, updated, epoch in await fetch(
        _sql(_CHECKPOINTS, schema)
    ):
        state = PartitionState(position, unescaped(log), updated, epoch)
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
    columns = 'rows_in, first, "end", model, generation, log, position, updated, epoch, layout'
    async with connection.transaction():
        records = await connection.fetch(
            f"select {columns} from {checkpoints} where rows_in = $1 order by first for update", table.rows_in
        )
        present = {Partition(record["first"], record["end"]): record for record in records}
        if not present.keys() & set(old) and present.keys() >= set(new):
            return "there"
        if not present.keys() >= set(old) or len({(present[p]["position"], present[p]["log"]) for p in old}) != 1:
            return "refused"
        one, epoch = present[old[0]], max(present[p]["epoch"] for p in old)
        await connection.execute(
            f"delete from {checkpoints} where rows_in = $1 and first = any($2::int[])",
            table.rows_in,
            [p.first for p in old],
        )
        await connection.executemany(
            f"insert into {checkpoints} ({columns}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [(*one[:1], p.first, p.end, *one[3:8], epoch, one["layout"]) for p in new],
        )
    return "done"


def _sql(template: str, schema: str) -> str:
    return template.format(checkpoints=qualified(schema, CHECKPOINTS), parked=qualified(schema, PARKED))


def _parked(key: str, whole: str | None, position: int, error: str, since: int, waiting: int, upto: int) -> Parked:
    return Parked(key_of(key, whole), position, unescaped(error), since, waiting, upto)
