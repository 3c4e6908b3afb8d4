"""In charge of saves: a change as one statement, which is one transaction and one round trip.

The checkpoint comes first, and all else only where it could be moved: a follower that is late waits for the row of the
checkpoint, and then finds it moved. Measured on 2 cores, against `begin`, `update`, `insert … unnest`, `commit`: twice
as many rows a second one by one, a quarter more in batches of a hundred, as many in batches of a thousand. A function
on the server was as quick, but would have to be kept in step with the columns. COPY into a temporary table was slower
up to a thousand rows, and a sixth faster at ten thousand, which no follower saves at a time.

A save that moves the checkpoint on is not waited for to reach the disk: what a crash takes back the log still has. One
that does not (a repair, a retry) is on record as done, and followers would not do it again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Change, Parked
from twofold.read_store.postgres.arguments import Arguments, Statement, whole_numbers
from twofold.read_store.postgres.table import CHECKPOINTS, PARKED, Table, key_arrays, qualified
from twofold.read_store.postgres.text import escaped

_IF_MOVED = "where exists (select from moved)"


class Standing(NamedTuple):
    """Where the checkpoint of a partition is, and for which columns the table of the rows was prepared last."""

    position: int
    log: str
    updated: int
    epoch: int
    layout: str


def save_statement(table: Table, change: Change, schema: str) -> Statement:
    """What saves a change. It answers how many checkpoints were moved: one, or none.

    TypeError, ValueError or InvalidMessage where a row cannot be kept.
    """
    arguments = Arguments()
    parts = [f"with moved as ({_move(table, change, schema, arguments)} returning 1)"]
    rows = {key: kept for key, kept in change.rows.items() if kept.row is not None}
    if rows:
        names = ", ".join(table.names)
        renewed = ", ".join(f"{name} = excluded.{name}" for name in table.names[1:])
        parts.append(
            f"kept as (insert into {table.name} as old ({names})"
            f" select * from {arguments.unnested(table.arrays(rows))} {_IF_MOVED}"
            f" on conflict (key) do update set {renewed}"
            " where (excluded.repair, excluded.position) > (old.repair, old.position))"
        )
    gone = {key: kept for key, kept in change.rows.items() if kept.row is None}
    if gone:
        short, _ = key_arrays(list(gone))
        positions = whole_numbers([kept.position for kept in gone.values()])
        repairs = whole_numbers([kept.repair for kept in gone.values()])
        parts.append(
            f"gone as (delete from {table.name} old"
            f" using {arguments.unnested([short, positions, repairs])} new (key, position, repair)"
            f" {_IF_MOVED} and old.key = new.key and (old.repair, old.position) < (new.repair, new.position))"
        )
    parts += _parking(table, change, schema, arguments)
    early = ", set_config('synchronous_commit', 'off', true)" if change.position > change.before else ""
    return f"{', '.join(parts)} select count(*){early} from moved", arguments.values


def standing_statement(table: Table, change: Change, schema: str) -> Statement:
    """What tells the `Standing` of the partition of a change, without a row where there is none."""
    return (
        f"select position, log, updated, epoch, layout from {qualified(schema, CHECKPOINTS)}"
        ' where rows_in = $1 and first = $2 and "end" = $3',
        [table.rows_in, change.partition.first, change.partition.end],
    )


def refuse(table: Table, change: Change, present: Standing | None, *, perhaps_done: bool) -> None:
    """Raise what a change is told that moved no checkpoint.

    Nothing where it was `perhaps_done` by an earlier call, whose answer was lost, and the checkpoint is where that put
    it: then rows and parked keys are there as well.
    """
    name = change.model.name
    if present is None:
        raise Conflict(f"Read model '{name}' has no partition {change.partition.name} any more.")
    done = (change.position, escaped(change.log), change.now, change.epoch)
    if perhaps_done and present[:4] == done:
        return
    if present.layout != table.layout:
        raise Unavailable(
            f"Another process has prepared read model '{name}' generation {change.model.generation} with other fields "
            "to be found and ordered by. Let all processes have the same modules, and restart this one."
        )
    raise Conflict(
        f"Read model '{name}' is at {present.position} of log '{present.log}', not at {change.before} of log "
        f"'{change.expected}', or a later epoch than {change.epoch} keeps it."
    )


def _move(table: Table, change: Change, schema: str, arguments: Arguments) -> str:
    one = arguments.one
    epoch = one(change.epoch, "bigint")
    return (
        f"update {qualified(schema, CHECKPOINTS)}"
        f" set position = {one(change.position, 'bigint')}, log = {one(escaped(change.log), 'text')},"
        f" updated = {one(change.now, 'bigint')}, epoch = {epoch}"
        f" where rows_in = {one(table.rows_in, 'text')} and first = {one(change.partition.first, 'int')}"
        f' and "end" = {one(change.partition.end, "int")} and position = {one(change.before, "bigint")}'
        f" and log in ('', {one(escaped(change.expected), 'text')}) and epoch <= {epoch}"
        f" and layout = {one(table.layout, 'text')}"
    )


def _parking(table: Table, change: Change, schema: str, arguments: Arguments) -> list[str]:
    parked = [each for each in change.parked.values() if each is not None]
    cleared = [key for key, each in change.parked.items() if each is None]
    name, rows_in = qualified(schema, PARKED), arguments.one(table.rows_in, "text") if change.parked else ""
    parts: list[str] = []
    if parked:
        columns = ("key", "whole_key", "error", "position", "since", "waiting", "upto")
        parts.append(
            f"parked as (insert into {name} (rows_in, {', '.join(columns)})"
            f" select {rows_in}, new.* from {arguments.unnested(_columns_of(change, parked))} new {_IF_MOVED}"
            f" on conflict (rows_in, key) do update"
            f" set {', '.join(f'{each} = excluded.{each}' for each in columns[1:])})"
        )
    if cleared:
        keys = arguments.one(key_arrays(cleared)[0][0], "text[]")
        parts.append(f"cleared as (delete from {name} {_IF_MOVED} and rows_in = {rows_in} and key = any({keys}))")
    return parts


def _columns_of(change: Change, parked: Sequence[Parked]) -> list[tuple[Any, str]]:
    keys = [key for key, each in change.parked.items() if each is not None]
    return [
        *key_arrays(keys),
        # What an error says may hold half of a surrogate pair.
        ([escaped(each.error.encode("utf-8", "backslashreplace").decode()) for each in parked], "$::text[]"),
        whole_numbers([each.position for each in parked]),
        whole_numbers([each.since for each in parked]),
        whole_numbers([each.waiting for each in parked]),
        whole_numbers([each.upto for each in parked]),
    ]
