"""Appending in SQLite: one batch is one transaction and one sync to disk."""

from collections.abc import Mapping, Sequence

import apsw

from twofold.domain.envelope import encode_head, encode_tags
from twofold.domain.event_query import AppendCondition
from twofold.domain.events import Position
from twofold.errors import CommandIdReused, Conflict, ForkedHistory
from twofold.write_store.chain import chain_digest, content_digest, link
from twofold.write_store.checksums import command_checksum, numbers_checksum, row_checksum
from twofold.write_store.command_clock import CommandClock
from twofold.write_store.port import Append, Appended, Outcome, RowGuard, RowWrite, is_written
from twofold.write_store.sqlite.packing import PayloadPacker
from twofold.write_store.sqlite.reader import EVERY_EVENT, Catalogue, Head, LogReader
from twofold.write_store.sqlite.retag import retag

_EVENT = """
insert into events (log_id, position, type_id, version, payload, envelope, tags, chain) values (?, ?, ?, ?, ?, ?, ?, ?)
"""
_TAG = "insert into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?)"
_COMMAND = """
insert into commands (log_id, command_id, request_hash, position, count, recorded_at, checksum)
values (?, ?, ?, ?, ?, ?, ?)
"""
_HEAD = """
update logs set position = ?, chain = ?, appends = appends + 1, commands_checksum = commands_checksum + ?,
                rows_checksum = rows_checksum + ?
where log_id = ? and position = ? and chain = ?
"""
_CHECKSUMS = """
update logs set commands_checksum = commands_checksum + ?, rows_checksum = rows_checksum + ? where log_id = ?
"""
_ROW = """
insert into rows (log_id, space, key, value, version, checksum) values (?, ?, ?, ?, ?, ?)
on conflict (log_id, space, key)
do update set value = excluded.value, version = excluded.version, checksum = excluded.checksum
"""
_PRUNE = """
delete from commands where arrival in (select arrival from commands order by arrival limit ?) and recorded_at < ?
returning checksum
"""
_PRESENT_EPOCH = """
select l.epoch, l.position,
       coalesce((select e.checksum from epochs as e where e.log_id = l.log_id order by e.epoch desc limit 1), 0)
from logs as l where l.log_id = ?
"""
_PRUNE_EVERY = 128
_ROW_CHANGED = "A row that this append depends on was changed first."
_TAIL_KEYS = 200_000
_WRITE_BACK_PAGES = 4_000
_NO_TAG = (EVERY_EVENT,)


class LogWriter:
    """Writes one log over the one connection that writes."""

    def __init__(
        self, connection: apsw.Connection, log_id: int, catalogue: Catalogue, clock: CommandClock, retention: int
    ) -> None:
        self._connection = connection
        self._reader = LogReader(connection, log_id, catalogue)
        self._log_id = log_id
        self._clock = clock
        self._retention = retention
        self._since_pruned = 0
        self._catalogue = catalogue
        self._reader.refresh_types()
        self._packer = PayloadPacker(connection, log_id)
        self._stale = False
        catalogue.head = head = self._reader.stored_head()
        self._tail = _Tail(head.position)
        self._pages_waiting = 0
        connection.set_wal_hook(self._note_pages)

    def append(self, batch: Sequence[Append]) -> list[Outcome]:
        """Check and write a batch. It is on disk when this returns. apsw.Error if it fails: then nothing is written."""
        connection = self._connection
        connection.execute("begin immediate")
        try:
            if self._stale:
                self._forget_unstored()
            ids = [append.command_id for append in batch if append.command_id is not None]
            self._tail.shorten()
            before = self._reader.head()
            pending = _Pending(before, self._reader.remembered(ids), self._clock.now())
            for append in batch:
                pending.outcomes.append(self._append_one(append, pending))
            self._flush(pending)
            if pending.stored is before:
                # No event moved the head, so nothing has compared it.
                self._check_head(before)
            self._packer.add_dictionaries()
            self._prune(len(batch), pending)
            self._add_checksums(pending)
            connection.execute("commit")
        except BaseException:
            # Read again before the next batch: if reading failed here, what is not stored would stay in memory.
            self._stale = True
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        self._tail.head = pending.head
        self._tail.last.update(pending.last)
        self._catalogue.head = Head(pending.head, pending.chain)
        return pending.outcomes

    def _forget_unstored(self) -> None:
        self._reader.refresh_types()
        self._packer.reload()
        self._stale = False

    def _check_head(self, known: Head) -> None:
        """ForkedHistory where the head in the file is not the one that this process has written."""
        stored = self._reader.stored_head()
        if stored != known:
            raise ForkedHistory(
                f"This process has written up to position {known.position} ({chain_digest(known.chain)}), but the "
                f"file is at {stored.position} ({chain_digest(stored.chain)}): it was changed by something else while "
                "it was in use."
            )

    def write_back(self) -> bool:
        """Copy committed pages into the main file, once there are many; whether it was time. apsw.Error if it fails.

        SQLite would do it by itself, but would not report a failure.
        """
        if self._pages_waiting < _WRITE_BACK_PAGES:
            return False
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return True

    def _note_pages(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._pages_waiting = pages
        return apsw.SQLITE_OK

    def retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        """Add tags to stored events. They are on disk when this returns. apsw.Error where it fails: then nothing is."""
        retag(self._connection, self._log_id, tags)
        # The last position of a tag may have changed.
        self._tail = _Tail(self._tail.head)

    def begin_epoch(self, moved_to: str | None = None) -> None:
        """Begin the next epoch after the head. It is on disk when this returns. apsw.Error where it fails.

        With `moved_to` this log ends there: it was moved to that place.
        """
        with self._connection:
            if moved_to is not None:
                sql = "update logs set use = 'moved', place = ? where log_id = ?"
                self._connection.execute(sql, (moved_to, self._log_id))
            self._connection.execute("update logs set epoch = epoch + 1 where log_id = ?", (self._log_id,))
            epoch, after, last = next(self._connection.execute(_PRESENT_EPOCH, (self._log_id,)))
            self._connection.execute(
                "insert into epochs (log_id, epoch, after, checksum) values (?, ?, ?, ?)",
                (self._log_id, epoch, after, numbers_checksum(epoch, after, last)),
            )

    def _append_one(self, append: Append, pending: "_Pending") -> Outcome:
        if append.command_id is not None:
            known = pending.commands.get(append.command_id)
            if known is not None:
                return _repeat(known, append)
        in_turn = append.rests_on is not None
        for condition in append.conditions:
            if self._breaks(condition, pending, in_turn=in_turn):
                return Conflict("An event that this decision had not seen was written first.")
        if append.rests_on and not all(is_written(pending.outcomes[place]) for place in append.rests_on):
            return Conflict("An append that this decision rests on was not written.")
        if append.guards and not all(self._is_at(guard, pending) for guard in append.guards):
            return Conflict(_ROW_CHANGED)
        if append.rows:
            if not self._write_rows(append.rows, pending):
                return Conflict(_ROW_CHANGED)
            pending.guarded.clear()
        for event in append.events:
            pending.head = position = pending.head + 1
            type, type_id = event.type, self._catalogue.ids.get(event.type) or self._new_type(event.type, pending)
            head, payload, version = encode_head(event.id, append.metadata), event.payload, event.version
            pending.chain = chain = link(pending.chain, content_digest(type, version, head, payload))
            tags, stored = encode_tags(event.tags), self._packer.pack(type_id, version, payload)
            pending.events.append((self._log_id, position, type_id, version, stored, head, tags, chain))
            for tag in (EVERY_EVENT, *event.tags):
                pending.tags.append((self._log_id, tag, type_id, position))
                pending.last[tag, type] = position
        outcome = Appended(pending.head, len(append.events), chain=pending.chain)
        if append.command_id is not None:
            pending.remember(append, outcome, self._log_id)
        return outcome

    def _breaks(self, condition: AppendCondition, pending: "_Pending", *, in_turn: bool) -> bool:
        """Whether an event from before the batch breaks a condition, or, unless `in_turn`, one of the batch."""
        upto = pending.before if in_turn else pending.head
        if condition.after >= upto:
            return False
        answer = self._tail.any_match(condition)
        if not in_turn and answer is False:
            answer = _last_match(pending.last, condition)
        if answer is None:
            self._flush(pending)
            answer = self._reader.any_match(condition, upto)
        return answer

    def _is_at(self, guard: RowGuard, pending: "_Pending") -> bool:
        present = pending.guarded.get((guard.space, guard.key))
        if present is None:
            present = pending.guarded[guard.space, guard.key] = self._reader.row_version(guard.space, guard.key)[0]
        return present == guard.expected

    def _write_rows(self, rows: Sequence[RowWrite], pending: "_Pending") -> bool:
        checksums = 0
        for row in rows:
            version, checksum = self._reader.row_version(row.space, row.key)
            if version != row.expected:
                return False
            checksums -= checksum
        for row in rows:
            if row.value is None:
                sql = "delete from rows where log_id = ? and space = ? and key = ?"
                self._connection.execute(sql, (self._log_id, row.space, row.key))
            else:
                checksum = row_checksum(row.space, row.key, row.next, row.value)
                self._connection.execute(_ROW, (self._log_id, row.space, row.key, row.value, row.next, checksum))
                checksums += checksum
        pending.rows_checksum += checksums
        return True

    def _new_type(self, name: str, pending: "_Pending") -> int:
        # Something else may have written the same type.
        self._check_head(pending.stored)
        type_id = len(self._catalogue.ids) + 1
        sql = "insert into event_types (log_id, type_id, name) values (?, ?, ?)"
        self._connection.execute(sql, (self._log_id, type_id, name))
        return self._reader.refresh_types()[name]

    def _flush(self, pending: "_Pending") -> None:
        execute = self._connection.executemany
        if pending.events:
            head = Head(pending.head, pending.chain)
            # First, so that no event is written after a head that is not the one of this process.
            self._connection.execute(_HEAD, (*head, *pending.take_checksums(), self._log_id, *pending.stored))
            if not self._connection.changes():
                self._check_head(pending.stored)
                raise ForkedHistory("The row of the log could not be changed: something else changes the file.")
            pending.stored = head
            execute(_EVENT, pending.events)
            execute(_TAG, pending.tags)
        if pending.new_commands:
            execute(_COMMAND, pending.new_commands)
        pending.clear()

    def _prune(self, appends: int, pending: "_Pending") -> None:
        self._since_pruned += appends
        if self._since_pruned >= _PRUNE_EVERY:
            # Twice as many as were added, so that the number of old ids does not grow.
            bound = (2 * self._since_pruned, pending.time - self._retention)
            for (checksum,) in self._connection.execute(_PRUNE, bound):
                pending.commands_checksum -= checksum
            self._since_pruned = 0

    def _add_checksums(self, pending: "_Pending") -> None:
        """Bring the sums beside the head up to date, where no event has."""
        commands, rows = pending.take_checksums()
        if commands or rows:
            self._connection.execute(_CHECKSUMS, (commands, rows, self._log_id))


class _Pending:
    """What a batch is about to write, collected so that few large statements write it."""

    def __init__(self, head: Head, commands: dict[str, tuple[bytes, Appended]], time: int) -> None:
        self.stored = head
        self.head, self.chain = head
        self.before = head.position
        self.time = time
        self.outcomes: list[Outcome] = []
        self.last: dict[tuple[str, str], Position] = {}
        self.commands = commands
        self.events: list[tuple[int, int, int, int, bytes, bytes, bytes, bytes]] = []
        self.tags: list[tuple[int, str, int, int]] = []
        self.new_commands: list[tuple[int, str, bytes, int, int, int, int]] = []
        self.commands_checksum = self.rows_checksum = 0
        self.guarded: dict[tuple[str, str], int] = {}

    def remember(self, append: Append, outcome: Appended, log_id: int) -> None:
        assert append.command_id is not None
        self.commands[append.command_id] = (append.request_hash, outcome)
        row = append.command_id, append.request_hash, outcome.position, outcome.count, self.time
        checksum = command_checksum(*row)
        self.commands_checksum += checksum
        self.new_commands.append((log_id, *row, checksum))

    def take_checksums(self) -> tuple[int, int]:
        """What the sums of the checksums of all commands and of all rows grow by. Each is taken once."""
        taken = self.commands_checksum, self.rows_checksum
        self.commands_checksum = self.rows_checksum = 0
        return taken

    def clear(self) -> None:
        self.events.clear()
        self.tags.clear()
        self.new_commands.clear()


class _Tail:
    """The last committed position of each tag and type since this process began to write, or since the last `shorten`.

    There is one writer, so all later events are in here: most conditions depend on recent folds and are checked here
    without reading the file.
    """

    def __init__(self, head: Position) -> None:
        self.head = head
        self._start = head
        self.last: dict[tuple[str, str], Position] = {}

    def shorten(self) -> None:
        """Start again if it has grown too large. Only between batches: all tags of an event are in it, or none."""
        if len(self.last) >= _TAIL_KEYS:
            self.last.clear()
            self._start = self.head

    def any_match(self, condition: AppendCondition) -> bool | None:
        """Whether an event matches; None where only the file can tell."""
        return None if condition.after < self._start else _last_match(self.last, condition)


def _last_match(last: Mapping[tuple[str, str], Position], condition: AppendCondition) -> bool | None:
    """Whether one of these last positions of a tag and a type breaks a condition; None where they cannot tell."""
    after = condition.after
    for item in condition.query.items:
        if not item.types:
            return None
        first, *others = item.tags or _NO_TAG
        for type in item.types:
            if last.get((first, type), 0) > after and all(last.get((tag, type), 0) > after for tag in others):
                # The positions of several tags may be of different events. Only the file tells if one has them all.
                return None if others else True
    return False


def _repeat(known: tuple[bytes, Appended], append: Append) -> Outcome:
    request_hash, first = known
    if request_hash != append.request_hash:
        return CommandIdReused(f"The command id '{append.command_id}' was already used for another request.")
    return Appended(first.position, first.count, repeated=True, chain=first.chain)
