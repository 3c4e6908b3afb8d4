"""Of sixty-four racers who have all loaded the same past, one wins: end to end, whatever the boundary looks like."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from twofold.app import App
from twofold.command_service.pending import PendingAppends
from twofold.domain.decision import DecisionModel
from twofold.domain.module import Module
from twofold.domain.tags import Tag
from twofold.errors import Conflict, Rejected
from twofold.write_store.port import Append, Outcome

RACERS = 64
ROUNDS = 200

ShowId = Annotated[int, Tag("show")]
GuestId = Annotated[str, Tag("guest")]


class Enter(msgspec.Struct, frozen=True):
    """A racer tries to be the one of this round; `politely`: to be late is `None`, not a rejection."""

    show: ShowId
    guest: GuestId
    racer: int
    politely: bool


class EnterByType(Enter, frozen=True):
    pass


class EnterByBoth(Enter, frozen=True):
    pass


class Entered(msgspec.Struct, frozen=True):
    show: ShowId
    guest: GuestId
    racer: int


class Show(msgspec.Struct, frozen=True):
    last: int = 0

    def evolve(self, event: Entered) -> "Show":
        return Show(event.show)


class AnyShow(msgspec.Struct, frozen=True):
    last: int = 0

    def evolve(self, event: Entered) -> "AnyShow":
        return AnyShow(event.show)


class GuestOfShow(msgspec.Struct, frozen=True):
    last: int = 0

    def evolve(self, event: Entered) -> "GuestOfShow":
        return GuestOfShow(event.show)


def _enter(command: Enter, last: int) -> Entered | None:
    if last >= command.show:
        if command.politely:
            return None
        raise Rejected("late")
    return Entered(command.show, command.guest, command.racer)


def enter(command: Enter, show: Show) -> Entered | None:
    return _enter(command, show.last)


def enter_by_type(command: EnterByType, show: AnyShow) -> Entered | None:
    return _enter(command, show.last)


def enter_by_both(command: EnterByBoth, show: GuestOfShow) -> Entered | None:
    return _enter(command, show.last)


SHOWS = Module(
    "shows",
    events=[Entered],
    models=[DecisionModel(Show, by=ShowId), DecisionModel(AnyShow), DecisionModel(GuestOfShow, by=[ShowId, GuestId])],
    decisions=[enter, enter_by_type, enter_by_both],
)
COMMANDS = {"a tag": Enter, "a type alone": EnterByType, "two tags at once": EnterByBoth}


async def race(app: App, command: type[Enter], *, racers: int = RACERS, rounds: int = ROUNDS) -> Counter[str]:
    """AssertionError unless each round has one winner, and its event is the only one. Answers what the others got."""
    others: Counter[str] = Counter()
    for number in range(1, rounds + 1):
        sent = [app.send(command(number, "ann", racer, politely=racer % 2 == 0)) for racer in range(racers)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        winners = [racer for racer, each in enumerate(outcomes) if not isinstance(each, BaseException) and each.events]
        assert len(winners) == 1, f"round {number}: {len(winners)} racers won, not one"
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, Rejected | Conflict), outcome
                others[type(outcome).__name__] += 1
            elif not outcome.events:
                others["nothing"] += 1
        events = (await app.log(after=number - 1)).events
        assert [app.events.decode(event).racer for event in events] == winners, f"round {number}"
    return others


def url(kind: str, folder: Path) -> str:
    return "memory:" if kind == "memory" else f"sqlite:///{folder}/log.db"


@pytest.mark.parametrize("boundary", COMMANDS)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_exactly_one_of_sixty_four_racers_wins_each_of_two_hundred_rounds(
    kind: str, boundary: str, tmp_path: Path
) -> None:
    async with App(SHOWS, write_store=url(kind, tmp_path), read_store="memory:") as app:
        others = await race(app, COMMANDS[boundary])
    assert sum(others.values()) == ROUNDS * (RACERS - 1)
    assert min(others["Rejected"], others["nothing"]) > ROUNDS * RACERS // 4


@pytest.mark.parametrize("boundary", COMMANDS)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_without_turns_and_the_check_of_conditions_the_race_has_many_winners(
    kind: str, boundary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PendingAppends, "of", lambda *_: [])
    async with App(SHOWS, write_store=url(kind, tmp_path), read_store="memory:") as app:
        running = app._running
        assert running is not None
        append = running.write_store.append

        async def unchecked(batch: Sequence[Append]) -> list[Outcome]:
            return await append([msgspec.structs.replace(each, conditions=()) for each in batch])

        running.write_store.append = unchecked  # type: ignore[method-assign]
        with pytest.raises(AssertionError, match="64 racers won, not one"):
            await race(app, COMMANDS[boundary], rounds=1)
