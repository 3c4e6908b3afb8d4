"""What a log in SQLite stores beside its events, as it is stored, to be checked for damage."""

from collections.abc import Sequence

import apsw

from twofold.write_store.sqlite.raw_events import decoded, encoded, readable, whole_numbers
from twofold.write_store.verification import ChecksumTotals, LogUnreadable, RowOfLog, StateRow

# Text is read as bytes: damaged text may be no UTF-8.
_ROWS = """
select cast(space as blob), cast(key as blob), version, value, checksum from rows
where log_id = ?1 and (space, key) > (cast(?2 as text), cast(?3 as text)) order by space, key limit ?4
"""
_EPOCHS = "select epoch, after, checksum from epochs where log_id = ? order by epoch"
# One statement is one snapshot.
_TOTALS = """
select (select coalesce(sum(c.checksum), 0) from commands as c where c.log_id = l.log_id), l.commands_checksum,
       (select coalesce(sum(r.checksum), 0) from rows as r where r.log_id = l.log_id), l.rows_checksum
from logs as l where l.log_id = ?
"""


class SqliteRawState:
    """Rows, epochs and sums of a log, read over one connection."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        self._connection = connection
        self._log_id = log_id

    async def rows(self, after: tuple[str, str], limit: int) -> Sequence[RowOfLog]:
        found: list[RowOfLog] = []
        with readable():
            start = [encoded(text) for text in after]
            for space, key, *row in self._connection.execute(_ROWS, (self._log_id, *start, limit)):
                whole_numbers(row[0])
                found.append(RowOfLog(decoded(space), decoded(key), *row))
        return found

    async def state(self) -> StateRow:
        with readable():
            epochs = list(self._connection.execute(_EPOCHS, (self._log_id,)))
            for row in epochs:
                whole_numbers(*row)
        return StateRow(epochs)

    async def totals(self) -> ChecksumTotals:
        with readable():
            for row in self._connection.execute(_TOTALS, (self._log_id,)):
                return ChecksumTotals(*row)
        raise LogUnreadable("its row in the table logs is missing")
