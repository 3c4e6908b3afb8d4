"""In charge of auditing a read model: its rows held against the fold of the log, while it is followed for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec import structs

from twofold.app import App
from twofold.domain.events import Position
from twofold.domain.projection import MAX_KEY, BoundProjection
from twofold.errors import InvalidMessage, TwofoldError, Unavailable, UnknownMessage
from twofold.operations.inline_rows import InlineLook
from twofold.operations.key_folds import KeyFolds, Skips
from twofold.operations.looking import Difference, Look, Seen, difference, verdict
from twofold.operations.scratch import OnProgress, Scratch, scratch
from twofold.read_store.port import ReadStore
from twofold.synchronization.cluster_state import OperatorAction, operator_actions, read_cluster_state, skipped_events
from twofold.world import World
from twofold.write_store.port import WriteStore

PAGE = 1_000
"""Rows that are held in memory at once, of the read model and of the fold."""
SAMPLE = 20
_REPAIRS = 16

Repair = Callable[[str, str], Awaitable[object]]
"""Has a key of a projection repaired: `App.projections.repair`, or whoever asks a running app for that."""


class Audited(msgspec.Struct, frozen=True):
    """How the rows of a read model compare with the fold of the log. `sample` are some that differ, as they were found:
    `before` is what was there, `after` what the log says.

    `rows` are the keys looked at: the sum of `right`, `different` (also rows that are of another position than the
    fold: an update is missing; and rows that are damaged), `missing`, `extra` and `parked`. Of those that were wrong,
    `repaired` are right now, and `failed` are not; `failures` says of some why. `position` is how far the log was
    folded for all rows; 0 for an audit of some keys.
    """

    name: str
    generation: int
    position: Position
    rows: int
    right: int
    different: int
    missing: int
    extra: int
    parked: int
    repaired: int
    failed: int
    sample: list[Difference]
    failures: list[str]

    @property
    def wrong(self) -> int:
        """How many rows were found wrong."""
        return self.different + self.missing + self.extra

    @property
    def all_right(self) -> bool:
        """Whether nothing is wrong, any more. Parked keys are known to be behind."""
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
) -> Audited:
    """Hold the rows of the generation that serves against the fold of the log: all of them, or those of `keys`.

    `app` tells the fold, and need not run; `write_store` and `read_store` are its stores, which may be open for reading
    only, also
    while other processes write. Events that operators had passed over are passed over. What differs is judged by its
    own events up to the very position its row stands for: nobody has to stop. With `repair` each row that is wrong is
    repaired, and looked at again.

    An inline projection is audited by key only, and has nobody who repairs. UnknownMessage where the app has no such
    projection; InvalidMessage where it cannot be audited so; Unavailable where it has not been built yet.
    """
    projection = _projection(app, name)
    if keys is not None:
        _check_keys(keys)
    if projection.lifecycle == "inline":
        return await _audit_inline(app, write_store, projection, keys, repair, sample)
    board = await read_cluster_state(write_store, read_store.identity)
    generation = board.generations(name).record.find(projection.version, "serving")
    if generation is None:
        raise Unavailable(f"Version {projection.version} of '{name}' has not been built yet. Start the app first.")

    async def said() -> Skips:
        return skipped_events(
            (await operator_actions(write_store)).values(), name, projection.version, read_store.identity
        )

    skips = await said()
    folds = KeyFolds(write_store, projection, app.events.decode, app.world, skips)
    look = Look(
        write_store, read_store, name, generation, model=structs.replace(app.models[name], generation=generation)
    )
    auditing = _Auditing(look, folds, projection, repair, sample, said)
    if keys is not None:
        await auditing.take(dict.fromkeys(keys))
        return auditing.result(0)
    async with scratch(app, write_store, projection, skips) as fold:
        await auditing.run(look, fold, app.world, page, on_progress)
        return auditing.result(fold.position)


async def _audit_inline(
    app: App,
    write_store: WriteStore,
    projection: BoundProjection,
    keys: Sequence[str] | None,
    repair: Repair | None,
    sample: int,
) -> Audited:
    if keys is None:
        raise InvalidMessage(f"'{projection.name}' is inline: its rows are read by key. Say which ones.", field="key")
    if repair is not None:
        raise InvalidMessage(
            f"'{projection.name}' is inline: commands write its rows, and no follower repairs them. Raise its version: "
            "they are built anew at the next start.",
            field="name",
        )
    folds = KeyFolds(write_store, projection, app.events.decode, app.world)
    auditing = _Auditing(InlineLook(write_store, projection), folds, projection, None, sample)
    await auditing.take(dict.fromkeys(keys))
    return auditing.result(0)


def _check_keys(keys: Iterable[str]) -> None:
    for key in keys:
        if not 1 <= len(key) <= MAX_KEY:
            raise InvalidMessage(f"A key has 1 to {MAX_KEY} characters, not {len(key)}.", field="key")


def _projection(app: App, name: str) -> BoundProjection:
    if name not in app.wiring.projections:
        known = ", ".join(sorted(app.wiring.projections)) or "none"
        raise UnknownMessage(f"There is no projection '{name}'. There are: {known}.", field="name")
    projection: BoundProjection = app.wiring.projections[name]
    if projection.lifecycle == "live":
        raise InvalidMessage(
            f"'{name}' is live: it is folded when it is asked, and no rows of it are kept that could differ.",
            field="name",
        )
    return projection


class _ByKey(Protocol):
    """Where rows are looked at by key."""

    name: str
    generation: int

    async def of(self, keys: Iterable[str]) -> dict[str, Seen]:
        """What there is of these keys now."""
        ...


class _Judged(NamedTuple):
    """What was found of some keys: how many are right, which are parked, and what is wrong of the others."""

    right: int
    parked: list[str]
    wrong: dict[str, Difference]


class _Auditing:
    """One audit under way."""

    def __init__(
        self,
        look: _ByKey,
        folds: KeyFolds,
        projection: BoundProjection,
        repair: Repair | None,
        sample: int,
        skips: Callable[[], Awaitable[Skips]] | None = None,
    ) -> None:
        self._look = look
        self._folds = folds
        self._projection = projection
        self._repair = repair
        self._most = sample
        self._skips = skips
        self._right = self._different = self._missing = self._extra = self._parked = 0
        self._repaired = self._failed = 0
        self._sample: list[Difference] = []
        self._failures: list[str] = []

    async def run(self, look: Look, fold: Scratch, world: World, limit: int, on_progress: OnProgress | None) -> None:
        """All keys, in order. What is right at a glance is counted; everything else is judged by its own events."""
        await fold.advance(await look.checkpoint(), on_progress)
        doubtful: list[str] = []
        after: str | None = ""
        while after is not None:
            # Where the log goes on, so does the fold: else more and more rows would be beyond it.
            await fold.advance(await look.checkpoint())
            there, right = await look.page(after, limit), await fold.look.page(after, limit)
            after = min((each for each in (there.upto, right.upto) if each is not None), default=None)
            for key in sorted(there.rows.keys() | right.rows.keys()):
                if after is None or key <= after:
                    seen = there.rows.get(key) or look.absent(key)
                    if self._agree(seen, right.rows.get(key) or fold.look.absent(key)):
                        self._right += 1
                    else:
                        doubtful.append(key)
            if len(doubtful) >= self._folds.at_once or after is None:
                await self.take(doubtful)
                doubtful = []
            await world.sleep(0)

    async def take(self, keys: Iterable[str]) -> None:
        """Judge keys, and have those repaired that are wrong."""
        rest = list(keys)
        while rest:
            some, rest = rest[: self._folds.at_once], rest[self._folds.at_once :]
            judged = await self._judge(some)
            self._right += judged.right
            self._parked += len(judged.parked)
            for wrong in judged.wrong.values():
                self._count(wrong)
            if judged.wrong and self._repair is not None:
                await self._mend(list(judged.wrong), self._repair)

    def _agree(self, seen: Seen, folded: Seen) -> bool:
        """Whether a row is right for certain."""
        same = verdict(seen, folded, self._projection.row) == "same"
        return same and seen.position == folded.position and seen.row is not None

    async def _judge(self, keys: Sequence[str]) -> _Judged:
        seen = await self._look.of(keys)
        # A row that nobody can read is wrong, whatever waits behind it.
        parked = {key for key, each in seen.items() if each.parked and not each.corruption}
        claims = {key: _claim(each) for key, each in seen.items() if key not in parked}
        folded = await self._folds.fold(claims)
        wrong = {key: each for key, each in folded.items() if not each.right}
        if wrong and self._skips is not None and (skips := await self._skips()) != self._folds.skips:
            # An operator has had something passed over since this audit began.
            self._folds.skips = skips
            again = await self._folds.fold({key: claims[key] for key in wrong})
            wrong = {key: each for key, each in again.items() if not each.right}
        told = {
            key: difference(key, seen[key], each.seen, self._projection.row, each.error) for key, each in wrong.items()
        }
        return _Judged(len(folded) - len(told), sorted(parked), told)

    def _count(self, wrong: Difference) -> None:
        there, right = wrong.before is not None, wrong.after is not None
        self._missing += right and not there
        self._extra += there and not right
        self._different += there == right
        if len(self._sample) < self._most:
            self._sample.append(wrong)

    async def _mend(self, keys: Sequence[str], repair: Repair) -> None:
        reasons: dict[str, str] = {}

        async def mend(key: str) -> None:
            try:
                done = await repair(self._look.name, key)
            except TwofoldError as error:
                reasons[key] = str(error)
            else:
                if isinstance(done, OperatorAction) and not done.done:
                    reasons[key] = done.outcome

        for n in range(0, len(keys), _REPAIRS):
            await asyncio.gather(*(mend(key) for key in keys[n : n + _REPAIRS]))
        judged = await self._judge(keys)
        still = [*judged.wrong, *judged.parked]
        self._repaired += judged.right
        self._failed += len(still)
        for key in still[: self._most - len(self._failures)]:
            self._failures.append(f"{key}: {reasons.get(key) or _still_wrong(judged.wrong.get(key))}")

    def result(self, position: Position) -> Audited:
        """What was found."""
        wrong = self._different + self._missing + self._extra
        return Audited(
            self._look.name,
            self._look.generation,
            position,
            self._right + wrong + self._parked,
            self._right,
            self._different,
            self._missing,
            self._extra,
            self._parked,
            self._repaired,
            self._failed,
            self._sample,
            self._failures,
        )


def _still_wrong(wrong: Difference | None) -> str:
    """Why a row is wrong although it was repaired, and what helps."""
    if wrong is None:
        return "It is parked."
    return f"{wrong.error or 'It differs still.'} A repair does not help here; rebuild the read model."


def _claim(seen: Seen) -> Seen:
    """What a row says of itself: that it is the state up to the last position that its checkpoint vouches for."""
    return seen._replace(first=seen.last) if seen.there else seen
