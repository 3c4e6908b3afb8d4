"""Auditing a read model: its rows are compared with the fold of the log, while a follower writes them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
from msgspec import structs

from twofold.app import App
from twofold.domain.events import Position
from twofold.domain.projection import MAX_KEY
from twofold.errors import InvalidMessage, TwofoldError, Unavailable, UnknownMessage
from twofold.operations.inline_rows import InlineRowInspector
from twofold.operations.key_folds import KeyFolds
from twofold.operations.progress import OnProgress, OnRows, no_rows
from twofold.operations.row_differences import Difference, compare_rows, difference
from twofold.operations.row_inspector import RowInspector, RowObservation, read_both
from twofold.operations.scratch_fold import ScratchFold, scratch_fold
from twofold.read_store.partition import ParkedEvent
from twofold.read_store.port import ReadStore
from twofold.synchronization.cluster_state import OperatorAction, operator_actions, read_cluster_state, skipped_events
from twofold.synchronization.event_parking import events_skipped
from twofold.synchronization.follower import Skips
from twofold.world import World
from twofold.write_store.port import WriteStore

PAGE = 1_000
"""Rows of the read model and of the fold that are in memory at once."""
SAMPLE = 20
_REPAIRS = 16

Repair = Callable[[str, str], Awaitable[object]]
"""Repairs a key of a projection: `App.projections.repair`, or the same through a running app."""


class AuditResult(msgspec.Struct, kw_only=True):
    """How the rows of a read model compare with the fold of the log. `sample` are some of the differences as they were
    before repairs: `before` is the stored row, `after` the folded one.

    `rows` counts the audited keys: the sum of `right`, `different` (also rows of another position than the fold, which
    lack an update, and corrupt rows), `missing`, `extra` and `parked`. Of the wrong ones, `repaired` are right now and
    `failed` are not; `failures` says why for some. `position` is the last position of the fold of the whole log; 0 for
    an audit of some keys.
    """

    name: str
    generation: int
    position: Position = 0
    rows: int = 0
    right: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    parked: int = 0
    repaired: int = 0
    failed: int = 0
    sample: list[Difference] = []
    failures: list[str] = []

    @property
    def wrong(self) -> int:
        """How many rows were wrong before repairs."""
        return self.different + self.missing + self.extra

    @property
    def all_right(self) -> bool:
        """Whether nothing is wrong now. A parked key is behind, but not wrong."""
        return self.wrong == self.repaired


async def audit(
    app: App,
    write_store: WriteStore,
    read_store: ReadStore,
    name: str,
    *,
    keys: Sequence[str] | None = None,
    repair: Repair | None = None,
    sample: int = SAMPLE,
    page: int = PAGE,
    on_progress: OnProgress | None = None,
    on_rows: OnRows = no_rows,
) -> AuditResult:
    """Compare the rows of the generation that serves with the fold of the log: all rows, or those of `keys`.

    `app` has the fold and need not run. `write_store` and `read_store` are its stores; they may be open read-only while
    other processes write. Events that operators skipped are skipped. A row that differs is compared with the fold of
    its own events up to the position it belongs to, so nothing has to stop. With `repair`, each wrong row is repaired
    and audited again.

    An inline projection is audited by key only and cannot be repaired. UnknownMessage if the app has no such
    projection; InvalidMessage if it cannot be audited this way; Unavailable if it has not been built yet.
    """
    _check(app, name, keys, repair)
    projection = app.wiring.projections[name]
    folds = KeyFolds(write_store, projection, app.events.decode, app.world)
    if projection.lifecycle == "inline":
        auditing = _Audit(InlineRowInspector(write_store, projection), folds, sample)
        await auditing.audit_keys(dict.fromkeys(keys or ()))
        return auditing.result
    state = await read_cluster_state(write_store, read_store.identity)
    generation = state.generations(name).record.find(projection.version, "serving")
    if generation is None:
        raise Unavailable(f"Version {projection.version} of '{name}' has not been built yet. Start the app first.")

    async def read_skips() -> Skips:
        actions = (await operator_actions(write_store)).values()
        return skipped_events(actions, name, projection.version, read_store.identity)

    folds.skips = await read_skips()
    model = structs.replace(app.models[name], generation=generation)
    stored = RowInspector(write_store, read_store, name, generation, model=model)
    auditing = _Audit(stored, folds, sample, repair, read_skips)
    if keys is not None:
        await auditing.audit_keys(dict.fromkeys(keys))
        return auditing.result
    async with scratch_fold(app, write_store, projection, folds.skips, lambda: stored.parked_events) as fold:
        await fold.advance(await stored.position(), on_progress)
        await auditing.run(stored, fold, app.world, page, on_rows)
        return auditing.result


def _check(app: App, name: str, keys: Iterable[str] | None, repair: Repair | None) -> None:
    if name not in app.wiring.projections:
        known = ", ".join(sorted(app.wiring.projections)) or "none"
        raise UnknownMessage(f"There is no projection '{name}'. There are: {known}.", field="name")
    for key in keys or ():
        if not 1 <= len(key) <= MAX_KEY:
            raise InvalidMessage(f"A key has 1 to {MAX_KEY} characters, not {len(key)}.", field="key")
    match app.wiring.projections[name].lifecycle:
        case "live":
            raise InvalidMessage(
                f"'{name}' is live: it is folded for each query, so there are no stored rows to audit.", field="name"
            )
        case "inline" if keys is None:
            raise InvalidMessage(f"'{name}' is inline: its rows are audited by key. Name the keys.", field="key")
        case "inline" if repair is not None:
            raise InvalidMessage(
                f"'{name}' is inline: commands write its rows, and no follower can repair them. Increase its version: "
                "the next start builds its rows again.",
                field="name",
            )
        case _:
            return


class _KeyedRows(Protocol):
    """Reads rows by key."""

    name: str
    generation: int
    parked_events: frozenset[ParkedEvent]

    async def rows(self, keys: Iterable[str]) -> dict[str, RowObservation]:
        """The observations of these keys."""
        ...


class _Verdicts(NamedTuple):
    """Some keys: how many are right, which are parked, and the differences of those that are wrong."""

    right: int
    parked: list[str]
    wrong: dict[str, Difference]


@dataclass
class _Audit:
    """One audit."""

    stored: _KeyedRows
    folds: KeyFolds
    sample_size: int
    repair: Repair | None = None
    read_skips: Callable[[], Awaitable[Skips]] | None = None

    def __post_init__(self) -> None:
        self.result = AuditResult(name=self.stored.name, generation=self.stored.generation)
        self._row_type = self.folds.projection.row

    async def run(self, stored: RowInspector, fold: ScratchFold, world: World, limit: int, on_rows: OnRows) -> None:
        """Audit all keys in order. Rows that equal the whole fold are counted; the others are folded key by key."""
        doubtful: list[str] = []
        after: str | None = ""
        while after is not None:
            # The fold follows the log. Otherwise more and more rows would be ahead of it.
            await fold.advance(await stored.position())
            pairs, after = await read_both(stored, fold.rows, after, limit)
            for key, (row, folded) in pairs.items():
                if self._equal(row, folded):
                    self.result.right += 1
                    self.result.rows += 1
                else:
                    doubtful.append(key)
            if len(doubtful) >= self.folds.at_once or after is None:
                await self.audit_keys(doubtful)
                doubtful = []
            on_rows(self.result.rows + len(doubtful))
            await world.sleep(0)
        self.result.position = fold.position

    async def audit_keys(self, keys: Iterable[str]) -> None:
        """Audit these keys one by one, and repair those that are wrong."""
        result, rest = self.result, list(keys)
        while rest:
            some, rest = rest[: self.folds.at_once], rest[self.folds.at_once :]
            verdicts = await self._judge(some)
            result.rows += len(some)
            result.right += verdicts.right
            result.parked += len(verdicts.parked)
            for wrong in verdicts.wrong.values():
                result.missing += wrong.before is None and wrong.after is not None
                result.extra += wrong.before is not None and wrong.after is None
                result.different += (wrong.before is None) == (wrong.after is None)
                if len(result.sample) < self.sample_size:
                    result.sample.append(wrong)
            if verdicts.wrong and self.repair is not None:
                await self._repair_keys(list(verdicts.wrong), self.repair)

    def _equal(self, row: RowObservation, folded: RowObservation) -> bool:
        """Whether a row is certain to be right."""
        same = compare_rows(row, folded, self._row_type) == "same"
        return same and row.position == folded.position and row.row is not None

    async def _judge(self, keys: Sequence[str]) -> _Verdicts:
        rows = await self.stored.rows(keys)
        self.folds.left_out = self.stored.parked_events | events_skipped(self.folds.skips)
        # A corrupt row is wrong even if its key is parked.
        parked = {key for key, row in rows.items() if row.parked and not row.corruption}
        # A row claims to be the state at the last position that its checkpoint covers.
        claims = {
            key: row._replace(first=row.last) if row.exists else row for key, row in rows.items() if key not in parked
        }
        folded = await self.folds.fold(claims)
        wrong = {key: fold for key, fold in folded.items() if not fold.right}
        if wrong and self.read_skips is not None and (skips := await self.read_skips()) != self.folds.skips:
            # An operator has skipped an event since this audit began.
            self.folds.skips = skips
            self.folds.left_out = self.stored.parked_events | events_skipped(skips)
            again = await self.folds.fold({key: claims[key] for key in wrong})
            wrong = {key: fold for key, fold in again.items() if not fold.right}
        differences = {
            key: difference(key, rows[key], fold.row, self._row_type, fold.error) for key, fold in wrong.items()
        }
        return _Verdicts(len(folded) - len(wrong), sorted(parked), differences)

    async def _repair_keys(self, keys: Sequence[str], repair: Repair) -> None:
        reasons: dict[str, str] = {}

        async def repair_key(key: str) -> None:
            try:
                action = await repair(self.stored.name, key)
            except TwofoldError as error:
                reasons[key] = str(error)
            else:
                if isinstance(action, OperatorAction) and not action.done:
                    reasons[key] = action.outcome

        for n in range(0, len(keys), _REPAIRS):
            await asyncio.gather(*(repair_key(key) for key in keys[n : n + _REPAIRS]))
        verdicts = await self._judge(keys)
        failed = [*verdicts.wrong, *verdicts.parked]
        self.result.repaired += verdicts.right
        self.result.failed += len(failed)
        for key in failed[: self.sample_size - len(self.result.failures)]:
            self.result.failures.append(f"{key}: {reasons.get(key) or _still_wrong(verdicts.wrong.get(key))}")


def _still_wrong(wrong: Difference | None) -> str:
    """Why a row is wrong although it was repaired, and what to do."""
    if wrong is None:
        return "The key is parked."
    return f"{wrong.error or 'The row still differs.'} A repair does not help here. Rebuild the read model."
