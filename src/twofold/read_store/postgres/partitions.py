"""In charge of partitions that take the place of others, in one transaction."""

from collections.abc import Sequence
from typing import Literal

from twofold.postgres_server import Connection
from twofold.read_store.partition import Partition
from twofold.read_store.postgres.table import CHECKPOINTS, Table, qualified


async def repartition(
    connection: Connection, table: Table, schema: str, old: Sequence[Partition], new: Sequence[Partition]
) -> Literal["done", "there", "refused"]:
    """Put `new` partitions in the place of `old` ones; "there" where that is how it is already, without the old ones.

    "refused" where `old` are not all there, or do not all stand at one position of one log.
    """
    checkpoints = qualified(schema, CHECKPOINTS)
    columns = 'rows_in, first, "end", model, generation, log, position, updated, epoch, layout'
    async with connection.transaction():
        found = {
            Partition(each["first"], each["end"]): each
            for each in await connection.fetch(
                f"select {columns} from {checkpoints} where rows_in = $1 order by first for update", table.rows_in
            )
        }
        if not found.keys() & set(old) and found.keys() >= set(new):
            return "there"
        if not found.keys() >= set(old) or len({(found[each]["position"], found[each]["log"]) for each in old}) != 1:
            return "refused"
        one, epoch = found[old[0]], max(found[each]["epoch"] for each in old)
        await connection.execute(
            f"delete from {checkpoints} where rows_in = $1 and first = any($2::int[])",
            table.rows_in,
            [each.first for each in old],
        )
        await connection.executemany(
            f"insert into {checkpoints} ({columns}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [(*one[:1], each.first, each.end, *one[3:8], epoch, one["layout"]) for each in new],
        )
    return "done"
