"""Saves: a change as one statement, which is one transaction and one round trip.

The checkpoint comes first, and all else only if it could be moved: a follower that is late waits for the row of the
checkpoint, and then finds it moved. Measured on 2 cores, against `begin`, `update`, `insert … unnest`, `commit`: twice
as many rows a second one by one, a quarter more in batches of a hundred, as many in batches of a thousand. A function
on the server was as fast, but would have to change with the columns. COPY into a temporary table was slower up to a
thousand rows, and a sixth faster at ten thousand, which no follower saves at a time.

A save that moves the checkpoint on does not wait for the disk: what a crash undoes is still in the log. A save that
does not (a repair, a retry) waits: it is recorded as done, and followers would not repeat it.
"""

from collections.abc import Mapping

from twofold.errors import Unavailable
from twofold.read_store.parked_summary import stored_summary
from twofold.read_store.partition_state import conflict
from twofold.read_store.port import Change, Parked
from twofold.read_store.postgres.checkpoints import CheckpointRow
from twofold.read_store.postgres.rows import CHECKPOINTS, PARKED, PostgresTable
from twofold.read_store.postgres.rows_columns import Arguments, Array, Statement, key_arrays, whole_numbers
from twofold.read_store.postgres.schema_names import escaped, qualified

_IF_MOVED = "where exists (select from moved)"


def save_statement(table: PostgresTable, change: Change, schema: str) -> Statement:
    """Saves a change. Its result is the number of checkpoints that were moved: one or none.

    TypeError, ValueError or InvalidMessage where a row cannot be stored.
    """
    arguments = Arguments()
    parts = [f"with moved as ({_move(table, change, schema, arguments)} returning 1)"]
    rows = {key: new for key, new in change.rows.items() if new.row is not None}
    if rows:
        names = ", ".join(table.names)
        renewed = ", ".join(f"{name} = excluded.{name}" for name in table.names[1:])
        parts.append(
            f"written as (insert into {table.name} as old ({names})"
            f" select * from {arguments.unnested(table.arrays(rows))} {_IF_MOVED}"
            f" on conflict (key) do update set {renewed}"
            " where (excluded.repair, excluded.position) > (old.repair, old.position))"
        )
    deleted = {key: new for key, new in change.rows.items() if new.row is None}
    if deleted:
        short, _ = key_arrays(list(deleted))
        positions = whole_numbers([new.position for new in deleted.values()])
        repairs = whole_numbers([new.repair for new in deleted.values()])
        parts.append(
            f"deleted as (delete from {table.name} old"
            f" using {arguments.unnested([short, positions, repairs])} new (key, position, repair)"
            f" {_IF_MOVED} and old.key = new.key and (old.repair, old.position) < (new.repair, new.position))"
        )
    parts += _parking(table, change, schema, arguments)
    early = ", set_config('synchronous_commit', 'off', true)" if change.position > change.before else ""
    return f"{', '.join(parts)} select count(*){early} from moved", arguments.values


def refuse(table: PostgresTable, change: Change, present: CheckpointRow | None, *, perhaps_done: bool) -> None:
    """Raise the error for a change that moved no checkpoint.

    It returns if the change was `perhaps_done` by an earlier call, whose answer was lost, and the checkpoint is where
    that would have put it: then rows and parked keys are there as well.
    """
    if present is not None:
        done = (change.position, escaped(change.stamp), change.now, change.epoch)
        if perhaps_done and (present.position, present.stamp, present.updated, present.epoch) == done:
            return
        if present.layout != table.layout:
            raise Unavailable(
                f"Another process has prepared read model '{change.model.name}' generation {change.model.generation} "
                "with other fields to be found and ordered by. Give all processes the same modules, and restart this "
                "one."
            )
    raise conflict(change, present)


def _move(table: PostgresTable, change: Change, schema: str, arguments: Arguments) -> str:
    one = arguments.one
    epoch = one(change.epoch, "bigint")
    summary = "" if change.summary is None else f", parked = {one(stored_summary(change.summary), 'text')}"
    return (
        f"update {qualified(schema, CHECKPOINTS)}"
        f" set position = {one(change.position, 'bigint')}, log = {one(escaped(change.stamp), 'text')},"
        f" updated = {one(change.now, 'bigint')}, epoch = {epoch}{summary}"
        f" where rows_in = {one(table.rows_in, 'text')} and first = {one(change.partition.first, 'int')}"
        f' and "end" = {one(change.partition.end, "int")} and position = {one(change.before, "bigint")}'
        f" and log in ('', {one(escaped(change.expected), 'text')}) and epoch <= {epoch}"
        f" and layout = {one(table.layout, 'text')}"
    )


def _parking(table: PostgresTable, change: Change, schema: str, arguments: Arguments) -> list[str]:
    parked = {key: key_parked for key, key_parked in change.parked.items() if key_parked is not None}
    cleared = [key for key, key_parked in change.parked.items() if key_parked is None]
    name, rows_in = qualified(schema, PARKED), arguments.one(table.rows_in, "text") if change.parked else ""
    parts: list[str] = []
    if parked:
        columns = ("key", "whole_key", "error", "position", "since", "waiting", "upto")
        parts.append(
            f"parked as (insert into {name} (rows_in, {', '.join(columns)})"
            f" select {rows_in}, new.* from {arguments.unnested(_columns_of(parked))} new {_IF_MOVED}"
            f" on conflict (rows_in, key) do update"
            f" set {', '.join(f'{name} = excluded.{name}' for name in columns[1:])})"
        )
    if cleared:
        keys = arguments.one(key_arrays(cleared)[0][0], "text[]")
        parts.append(f"cleared as (delete from {name} {_IF_MOVED} and rows_in = {rows_in} and key = any({keys}))")
    return parts


def _columns_of(parked: Mapping[str, Parked]) -> list[Array]:
    numbers = [(p.position, p.since, p.waiting, p.upto) for p in parked.values()]
    return [
        *key_arrays(list(parked)),
        # The text of an error may contain half of a surrogate pair.
        ([escaped(p.error.encode("utf-8", "backslashreplace").decode()) for p in parked.values()], "$::text[]"),
        *map(whole_numbers, map(list, zip(*numbers, strict=True))),
    ]
