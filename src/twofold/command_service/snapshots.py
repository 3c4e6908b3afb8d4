"""Snapshots: stored states of decision models, so that a long boundary is not folded from its first event again.

They are rows of the write store. What is in one is checked when it is read: it is of this code, of this history, and
not damaged; otherwise it counts as absent. So every snapshot can be deleted at any time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from twofold.codec.code_digest import UnknownCode, code_digest
from twofold.codec.state_codec import StateCodec
from twofold.command_service.fold_reads import FoldedState
from twofold.domain.decision import BoundModel, Fold
from twofold.domain.envelope import Metadata
from twofold.domain.events import Event, Position
from twofold.domain.module import Wiring
from twofold.errors import Conflict, ForkedHistory, TwofoldError, Unavailable
from twofold.world import World, microseconds
from twofold.write_store.history import check_history
from twofold.write_store.port import Append, LogRow, Outcome, RowWrite, WriteStore

log = logging.getLogger(__name__)

SPACE = "snapshots"
MOST_BYTES = 1_048_576
"""Bytes of a state at most: to encode and to decode more would take too long at once."""
_BYTES_AN_EVENT = 100
"""Bytes of snapshots that are written for each event at most, so that large states are stored more rarely."""
_FORM = 1
"""To be raised where Twofold itself stores states differently, or makes other states of the same events."""
_SEAL = 16
_MOST_DUE = 256
_MOST_POSTPONED = 10_000
_BATCH_BYTES = 262_144
_LONGEST_KEY = 500

AppendRows = Callable[[Append], Awaitable[Outcome]]


class _StoredState(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot in its row. `code` is the digest of the code that folded it."""

    code: str
    stamp: str
    position: Position
    state: msgspec.Raw


class _ModelForm(NamedTuple):
    code: str
    codec: StateCodec


class _DueSnapshot(NamedTuple):
    form: _ModelForm
    state: Any
    stamp: str
    position: Position


class SnapshotCounts(msgspec.Struct):
    """How many snapshots this process has stored and used, how many it had to ignore, and how many it could not store.

    Ignored are those of other code and of another history, and damaged ones.
    """

    stored: int = 0
    used: int = 0
    ignored: int = 0
    failed: int = 0


class Snapshots:
    """Looks for snapshots where a boundary is long, and stores new ones in the background.

    `every` is the number of events after which a state is stored; 0: no snapshots. A command never waits for a store,
    nor fails with it.
    """

    def __init__(self, write_store: WriteStore, wiring: Wiring, world: World, every: int) -> None:
        self.every = every
        self.counts = SnapshotCounts()
        self._write_store = write_store
        self._wiring = wiring
        self._world = world
        self._forms: dict[BoundModel, _ModelForm | str] = {}
        self._logged: set[BoundModel] = set()
        self._due: dict[Fold, _DueSnapshot] = {}
        self._postponed: dict[Fold, int] = {}
        self._append: AppendRows | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False

    def start(self, append: AppendRows) -> None:
        """Begin to store what is due."""
        self._append = append
        self._task = asyncio.create_task(self._run(), name="twofold-snapshots")

    async def stop(self) -> None:
        """Store what is due, and stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    # Reading

    async def newer_than(self, states: Mapping[Fold, FoldedState]) -> dict[Fold, FoldedState]:
        """The states of those folds that have a usable snapshot which has seen more."""
        keys = {_key(fold): fold for fold in states if self.every and self._form(fold.model) is not None}
        if not keys:
            return {}
        found: dict[Fold, FoldedState] = {}
        try:
            for key, row in (await self._write_store.rows(SPACE, list(keys))).items():
                fold = keys[key]
                stored = await self._usable(fold, key, row)
                if stored is not None and stored.upto > states[fold].upto:
                    found[fold] = stored
                    self.counts.used += 1
        except Unavailable as error:
            # What is damaged may be nothing but the row. If the store is away, the read of the events says so.
            log.warning("Snapshots cannot be read: %s", error)
        return found

    async def _usable(self, fold: Fold, key: str, row: LogRow) -> FoldedState | None:
        form = self._form(fold.model)
        stored = _opened(key, row.value)
        if stored is None:
            self._ignore(logging.WARNING, "is damaged", fold)
        elif form is None or stored.code != form.code:
            self._ignore(logging.DEBUG, "is of other code", fold)
        else:
            try:
                await check_history(self._write_store, stored.stamp, stored.position)
                return FoldedState(form.codec.decode(stored.state), stored.position)
            except ForkedHistory as error:
                self._ignore(logging.WARNING, f"does not fit the log ({error})", fold)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 -- it is logged, and the events are there
                # A class may check its fields as it likes.
                self._ignore(logging.WARNING, f"cannot be read ({error!r})", fold)
        return None

    def _ignore(self, level: int, why: str, fold: Fold) -> None:
        self.counts.ignored += 1
        log.log(level, "The snapshot of %s for %s %s. It is ignored, and will be replaced.", *_names(fold), why)

    # Storing

    def offer(self, fold: Fold, state: Any, position: Position, digest: str, events: int) -> bool:
        """Store a state later, if it is time: `events` were folded since the last one. False: ask again later.

        It is the state at a position, where the chain has this digest.
        """
        if events < self._postponed.get(fold, 0):
            return False
        form = self._form(fold.model)
        if form is not None and (fold in self._due or len(self._due) < _MOST_DUE):
            stamp = self._write_store.identity.stamp(digest)
            self._due[fold] = _DueSnapshot(form, state, stamp, position)
            self._wake.set()
        return True

    async def _run(self) -> None:
        for model in self._wiring.models.values() if self.every else ():
            # Before the first command needs it. Also this takes milliseconds.
            self._known_form(model)
            await self._world.sleep(0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                if not await self._store_some() and self._closing:
                    return
            if self._closing:
                return

    async def _store_some(self) -> bool:
        """Store some of what is due. False where that failed: the states are folded again when they are needed."""
        rows: dict[str, tuple[bytes, _DueSnapshot]] = {}
        size = 0
        while self._due and size < _BATCH_BYTES:
            fold = next(iter(self._due))
            due = self._due.pop(fold)
            value = await self._encoded(fold, due)
            if value is not None:
                rows[_key(fold)], size = (value, due), size + len(value)
        try:
            if rows:
                await self._write(rows)
        except Exception as error:
            self.counts.failed += len(rows)
            log.warning("Snapshots could not be stored: %s", error, exc_info=not isinstance(error, TwofoldError))
            return False
        return True

    async def _write(self, rows: Mapping[str, tuple[bytes, _DueSnapshot]]) -> None:
        present = await self._write_store.rows(SPACE, list(rows))
        writes: list[RowWrite] = []
        for key, (value, due) in rows.items():
            before = present.get(key)
            if before is None or not await self._is_newer(_opened(key, before.value), due):
                writes.append(RowWrite(SPACE, key, value, 0 if before is None else before.version))
        if writes and self._append is not None:
            by = Metadata(microseconds(self._world.now()), SPACE, SPACE)
            outcome = await self._append(Append(by, rows=tuple(writes)))
            # After a conflict there is one of another node.
            self.counts.stored += 0 if isinstance(outcome, Conflict) else len(writes)

    async def _is_newer(self, stored: _StoredState | None, due: _DueSnapshot) -> bool:
        """Whether a stored snapshot can be used as well, and has seen as much."""
        if stored is None or stored.code != due.form.code or stored.position < due.position:
            return False
        try:
            await check_history(self._write_store, stored.stamp, stored.position)
        except ForkedHistory:
            return False
        return True

    async def _encoded(self, fold: Fold, due: _DueSnapshot) -> bytes | None:
        """The value of the row; None where the state is too large, or JSON does not tell all of it."""
        codec = due.form.codec
        try:
            state = codec.encode(due.state)
            self._postpone(fold, len(state))
            if len(state) > MOST_BYTES:
                return None
            await self._world.sleep(0)
            again = codec.decode(state)
            await self._world.sleep(0)
            if again != due.state:
                raise ValueError("it is another one when it is read")
        except Exception as error:  # noqa: BLE001 -- it is logged, and the events are there
            self.counts.failed += 1
            self._log_once(fold.model, f"a state has no exact form in JSON ({error!r:.200})")
            return None
        stored = _StoredState(due.form.code, due.stamp, due.position, msgspec.Raw(state))
        await self._world.sleep(0)
        return _sealed(_key(fold), msgspec.json.encode(stored))

    def _postpone(self, fold: Fold, size: int) -> None:
        events = size // _BYTES_AN_EVENT
        self._postponed.pop(fold, None)
        if events > self.every:
            self._postponed[fold] = events
            if len(self._postponed) > _MOST_POSTPONED:
                del self._postponed[next(iter(self._postponed))]

    # The form of each model

    def _form(self, model: BoundModel) -> _ModelForm | None:
        """How its states are stored; None, and said once, where they are not."""
        form = self._known_form(model)
        if isinstance(form, str):
            self._log_once(model, form)
            return None
        return form

    def _known_form(self, model: BoundModel) -> "_ModelForm | str":
        form = self._forms.get(model)
        if form is None:
            form = self._forms[model] = _form_of(model, [self._wiring.events[name] for name in model.types])
        return form

    def _log_once(self, model: BoundModel, why: str) -> None:
        if model not in self._logged:
            self._logged.add(model)
            log.warning("No snapshot of %s is stored: %s", model.name, why)


def _form_of(model: BoundModel, events: Sequence[Event]) -> _ModelForm | str:
    """How the states of a model are stored, or why they are not."""
    try:
        return _ModelForm(_code_of(model, events), StateCodec(model.state))
    except UnknownCode as error:
        return f"it reaches {error}, so that a change may not show. Give the model a `version`."
    except Exception as error:  # noqa: BLE001 -- it is logged, and no command may fail with it
        return f"{error}"


def _code_of(model: BoundModel, events: Sequence[Event]) -> str:
    """The digest of everything that makes a state of events: the model, the events and their upcasters."""
    release = _FORM, model.version
    of_events = [(event.name, event.version, event.type, event.upcasters) for event in events]
    try:
        return code_digest(release, model.kinds, model.state, of_events)
    except UnknownCode:
        if model.version is None:
            raise
        # Then only its version says which code it is.
        names = [(event.name, event.version) for event in events]
        return code_digest(release, model.kinds, model.state.__qualname__, names)


def _key(fold: Fold) -> str:
    key = msgspec.json.encode([fold.model.state.__qualname__, *fold.tags])
    # A database that has an index of the keys may limit their length.
    return key.decode() if len(key) <= _LONGEST_KEY else sha256(key).hexdigest()


def _names(fold: Fold) -> tuple[str, str]:
    return fold.model.name, ", ".join(fold.tags) or "all events"


def _sealed(key: str, body: bytes) -> bytes:
    return sha256(key.encode() + body).digest()[:_SEAL] + body


def _opened(key: str, value: bytes) -> _StoredState | None:
    """What is stored in a row; None where its bytes are not those that were written."""
    body = value[_SEAL:]
    if _sealed(key, body) != value:
        return None
    try:
        return msgspec.json.decode(body, type=_StoredState)
    except msgspec.DecodeError:
        return None
