"""A batch as the arrays that the SQL function `append` takes, and its result as outcomes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from twofold.domain.command_ids import command_id_of_append
from twofold.domain.envelope import encode_head, encode_tags
from twofold.domain.event_query import AppendCondition, QueryItem
from twofold.domain.events import NewEvent, Position
from twofold.errors import CommandIdReused, Conflict
from twofold.write_store.chain import DIGEST_BYTES, content_digest
from twofold.write_store.port import Append, Appended, Outcome, RowWrite

_encode_json = msgspec.json.Encoder().encode
_MOST_RIVALS = 4_096
"""Pairs of appends of one call that depend on one another. With more pairs the rest of the batch is another call."""

Columns = list[Any]


class Known(NamedTuple):
    """The last position that a process has seen, and the chain there."""

    position: Position
    chain: bytes


class Call:
    """The first appends of a batch that can be written in one call of `append`; `count` says how many.

    A call ends where an append depends on one before it in a way the server cannot see: the same command id, other
    guards, a guard of a row that is written, or a condition on positions the log has not reached yet.

    `done` appends of the batch were in earlier calls. An append that rests on one of them is refused.
    """

    def __init__(
        self,
        batch: Sequence[Append],
        types: Mapping[str, int],
        nonce: int,
        seen: Position,
        *,
        recorded_at: int,
        done: int = 0,
    ) -> None:
        self.count = 0
        self._done = done
        self._recorded_at = recorded_at
        self._nonce = nonce
        self._types = types
        self._appends: list[Append] = []
        self._ids: set[str] = set()
        self._entries: dict[tuple[str, str], int] = {}
        self._by_tag: dict[tuple[str | None, str], list[int]] = {}
        self._events: list[tuple[int, NewEvent]] = []
        self._commands: tuple[Columns, ...] = ([], [], [], [])
        self._columns: tuple[Columns, ...] = ([], [], [], [], [], [], [])
        self._tags: tuple[Columns, ...] = ([], [])
        self._probes: tuple[Columns, ...] = ([], [], [], [])
        self._rivals: tuple[Columns, ...] = ([], [])
        self._wide: list[dict[str, Any]] = []
        self._rows: tuple[Columns, ...] = ([], [], [], [], [], [], [])
        self._guards = batch[0].guards
        rivalry = any(append.rests_on is None and append.conditions for append in batch[1:])
        for append in batch:
            if self.count and self._must_wait(append, seen):
                break
            if append.rests_on is not None:
                self._note_rests(append.rests_on)
            elif self.count and not self._note_rivals(append):
                break
            self._add(append, keep=rivalry)

    def arguments(self, epoch: int, known: Known) -> Sequence[Any]:
        """The arguments of `append`, by a process that has seen the log up to `known`."""
        wide = _encode_json(self._wide).decode() if self._wide else None
        return (
            *(
                epoch,
                self._nonce,
                known.position,
                known.chain[:DIGEST_BYTES],
                *self._commands,
                *self._columns,
                *self._tags,
                *self._probes,
                *self._rivals,
                wide,
            ),
            *self._rows,
            *([guard.space for guard in self._guards], [guard.key for guard in self._guards]),
            [guard.expected for guard in self._guards],
        )

    def check(self, answers: Sequence[Sequence[Any]]) -> None:
        """ConnectionError where this result belongs to another call."""
        if len(answers) != 1 or answers[0][0] != self._nonce:
            raise ConnectionError(f"the server answered another call than {self._nonce}")

    def outcomes(self, answer: Sequence[Any]) -> list[Outcome]:
        """The outcome of each append."""
        _, position, chain, chains, refused, repeats, hashes, positions, counts, nonces, repeat_chains = answer
        if not refused and not repeats:
            return self._all_appended(position, chain, chains)
        known = {i: at for at, i in enumerate(repeats)}
        refused = set(refused)
        outcomes: list[Outcome] = []
        events = 0
        for i, append in enumerate(self._appends, 1):
            at = known.get(i)
            events += len(append.events)
            if at is not None:
                own = nonces[at] == self._nonce
                first = Appended(positions[at], counts[at], repeated=not own, chain=repeat_chains[at])
                outcomes.append(_repeat(append, hashes[at], first))
            elif i in refused:
                outcomes.append(Conflict("An event or a row that this decision had not seen was written first."))
            else:
                position += len(append.events)
                chain = chains[events - 1] if append.events else chain
                outcomes.append(Appended(position, len(append.events), chain=chain))
        return outcomes

    def _all_appended(self, position: Position, chain: bytes, chains: Sequence[bytes]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        events = 0
        for append in self._appends:
            events += len(append.events)
            chain = chains[events - 1] if append.events else chain
            outcomes.append(Appended(position + events, len(append.events), chain=chain))
        return outcomes

    def _must_wait(self, append: Append, seen: Position) -> bool:
        return (
            append.command_id in self._ids
            or append.guards != self._guards
            or any((guard.space, guard.key) in self._entries for guard in append.guards)
            or (append.rests_on is None and any(condition.after > seen for condition in append.conditions))
        )

    def _add(self, append: Append, *, keep: bool) -> None:
        self.count = number = self.count + 1
        self._appends.append(append)
        ids, hashes, times, counts = self._commands
        # An append without a command id gets a unique one, so that a call that is sent again recognises it too.
        ids.append(append.command_id if append.command_id is not None else command_id_of_append(self._nonce, number))
        hashes.append(append.request_hash)
        times.append(self._recorded_at)
        counts.append(len(append.events))
        self._add_events(append, number)
        for condition in append.conditions:
            self._add_probes(condition, number)
        for row in append.rows:
            self._add_row(row, number)
        if append.command_id is not None:
            self._ids.add(append.command_id)
        if keep:
            self._keep(append, number)

    def _add_events(self, append: Append, number: int) -> None:
        of, types, versions, payloads, heads, event_tags, digests = self._columns
        tag_of, tags = self._tags
        for event in append.events:
            of.append(number)
            types.append(self._types[event.type])
            versions.append(event.version)
            payloads.append(event.payload)
            head = encode_head(event.id, append.metadata)
            heads.append(head)
            event_tags.append(encode_tags(event.tags))
            digests.append(content_digest(event.type, event.version, head, event.payload))
            for tag in event.tags:
                tag_of.append(len(of))
                tags.append(tag)

    def _add_probes(self, condition: AppendCondition, number: int) -> None:
        of, afters, tags, types = self._probes
        after = condition.after
        for item in condition.query.items:
            if not item.types or len(item.tags) > 1:
                numbers = [self._types[name] for name in item.types] if item.types else None
                self._wide.append({"of": number, "after": after, "tags": item.tags, "types": numbers})
                continue
            tag = item.tags[0] if item.tags else None
            for name in item.types:
                of.append(number)
                afters.append(after)
                tags.append(tag)
                types.append(self._types[name])

    def _add_row(self, row: RowWrite, number: int) -> None:
        left = 0 if row.value is None else row.next
        before = self._entries.get((row.space, row.key), 0)
        values = (number, row.space, row.key, row.value, row.expected, left, before)
        for column, value in zip(self._rows, values, strict=True):
            column.append(value)
        self._entries[row.space, row.key] = len(self._rows[0])

    def _keep(self, append: Append, number: int) -> None:
        """Remember the events that may break the conditions of a later append of this call."""
        for event in append.events:
            self._events.append((number, event))
            for tag in (None, *event.tags):
                self._by_tag.setdefault((tag, event.type), []).append(number)

    def _note_rests(self, places: Sequence[int]) -> None:
        """Note the appends that the next one rests on: as negative numbers, and 0 for one of an earlier call."""
        of, rivals = self._rivals
        of.extend([self.count + 1] * len(places))
        rivals.extend([min(0, self._done - place - 1) for place in places])

    def _note_rivals(self, append: Append) -> bool:
        """Note the earlier appends whose events would break these conditions. False if they are too many."""
        earlier: set[int] = set()
        for condition in append.conditions:
            for item in condition.query.items:
                earlier |= self._rivals_by(item)
        if earlier:
            of, rivals = self._rivals
            if len(rivals) + len(earlier) > _MOST_RIVALS:
                return False
            of.extend([self.count + 1] * len(earlier))
            rivals.extend(sorted(earlier))
        return True

    def _rivals_by(self, item: QueryItem) -> set[int]:
        if not item.types or len(item.tags) > 1:
            return {i for i, event in self._events if item.matches(event.type, frozenset(event.tags))}
        tag = item.tags[0] if item.tags else None
        return {number for name in item.types for number in self._by_tag.get((tag, name), ())}


def repeats(batch: Sequence[Append], outcomes: Sequence[Outcome]) -> list[str | None]:
    """The command ids that were remembered already, by the outcomes of a batch."""
    return [
        append.command_id
        for append, outcome in zip(batch, outcomes, strict=True)
        if isinstance(outcome, CommandIdReused) or (isinstance(outcome, Appended) and outcome.repeated)
    ]


def types_of(batch: Sequence[Append]) -> set[str]:
    """Every type that is written, or named in a condition."""
    written = {event.type for append in batch for event in append.events}
    conditions = (condition for append in batch for condition in append.conditions)
    return written.union(*(item.types for condition in conditions for item in condition.query.items))


def _repeat(append: Append, request_hash: bytes, first: Appended) -> Outcome:
    if request_hash != append.request_hash:
        return CommandIdReused(f"The command id '{append.command_id}' was already used for another request.")
    return first
